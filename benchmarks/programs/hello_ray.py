"""One call of one actor in bare Ray, from start to end."""

import sys

import ray


class Square:
    def call(self, x: int) -> int:
        return x * x


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "local"
    if address == "local":
        ray.init(address=address, include_dashboard=False)
    else:
        ray.init(address=address)
    square = ray.remote(Square).remote()
    print(ray.get(square.call.remote(42)))
    ray.shutdown()


if __name__ == "__main__":
    main()
