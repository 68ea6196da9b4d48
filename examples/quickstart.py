"""A first look: `raymodal run examples/quickstart.py` starts a Ray on this machine, runs this, and leaves nothing behind."""

import os
import time

import modal

app = modal.App("quickstart")


@app.function()
def square(x: int) -> int:
    return x * x


@app.function()
def invert(x: int) -> float:
    print(f"a container prints: 1 / {x}")
    return 1 / x


@app.function()
def countdown(start: int):
    while start:
        yield start
        start -= 1


@app.function(max_containers=4)
def nap(_: int) -> int:
    time.sleep(0.3)
    return os.getpid()


@app.local_entrypoint()
def main(n: int = 10_000):
    # Many inputs: bundled on the way, outcomes in the order of the inputs.
    started = time.perf_counter()
    total = sum(square.map(range(n)))
    print(f"map: {n:,} squares add up to {total:,}, {time.perf_counter() - started:.2f} s from no container at all")

    # An error costs its own input only, and arrives as the exception that it is.
    outcomes = list(invert.map([1, 0, 4], return_exceptions=True))
    print("errors:", *map(repr, outcomes), sep="  ")

    # Now in the background, the outcome later.
    call = square.spawn(12)
    print(f"spawn: {call.object_id[:6]}... gave {call.get()}")

    # A generator runs over there and is read here.
    print("generator:", *countdown.remote_gen(3))

    # Containers start while inputs wait, up to max_containers.
    started = time.perf_counter()
    seen: set[int] = set()
    for container in nap.map(range(8), order_outputs=False):
        if container not in seen:
            seen.add(container)
            print(f"scale-up: containers at work: {len(seen)}, after {time.perf_counter() - started:.1f} s")
    print(f"scale-up: 8 naps of 0.3 s took {time.perf_counter() - started:.1f} s")
