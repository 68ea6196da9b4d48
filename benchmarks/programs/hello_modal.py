"""One call of one function, as a Modal user writes it."""

import modal

app = modal.App("hello")


@app.function()
def square(x: int) -> int:
    return x * x


@app.local_entrypoint()
def main() -> None:
    print(square.remote(42))
