"""A user's app whose containers are for one input each. Containers import this module."""

import os
import secrets
import time
from collections.abc import Iterator

import raymodal as modal
from raymodal.experimental import stop_fetching_inputs
from tests.contract.files import note

app = modal.App("contract-single-use")
uses = 0


@app.function(single_use_containers=True)
def counted(x: int) -> tuple[int, int, int]:
    """How often this process was used, by it."""
    global uses
    uses += 1
    return x, uses, os.getpid()


@app.function(single_use_containers=True, retries=modal.Retries(max_retries=2, initial_delay=0.0))
def fails_twice(log: str) -> int:
    with open(log) as file:
        before = file.read().splitlines()
    note(log, str(os.getpid()))
    if len(before) < 2:
        raise ValueError("not yet")
    return len(set(before) | {str(os.getpid())})


@app.function(single_use_containers=True)
def dies_once(flag: str) -> str:
    if not os.path.exists(flag):
        with open(flag, "w"):
            os._exit(3)
    return "lived"


class Me:
    @modal.enter()
    def begin(self) -> None:
        self.me = secrets.token_hex(4)
        self.uses = 0


@app.cls(single_use_containers=True)
class Once(Me):
    log: str = modal.parameter(default="")

    @modal.method()
    def use(self, x: int) -> tuple[int, str, int]:
        self.uses += 1
        return x, self.me, self.uses

    @modal.method()
    def count_to(self, n: int) -> Iterator[tuple[int, str, int]]:
        self.uses += 1
        for i in range(n):
            yield i, self.me, self.uses

    @modal.exit()
    def end(self) -> None:
        if self.log:
            note(self.log, f"exit after {self.uses}")


@app.cls(single_use_containers=True, max_containers=1)
@modal.concurrent(max_inputs=5)
class OneAtATime(Me):
    @modal.method()
    def use(self, x: int) -> tuple[int, str, int]:
        self.uses += 1
        time.sleep(0.01)
        return x, self.me, self.uses


@app.cls(single_use_containers=True)
class Batches(Me):
    @modal.batched(max_batch_size=3, wait_ms=200)
    def use(self, xs: list[int]) -> list[tuple[int, str, int, int]]:
        self.uses += 1
        return [(x, self.me, self.uses, len(xs)) for x in xs]


@app.cls(max_containers=1)
class Retires(Me):
    @modal.method()
    def use(self, last: bool) -> tuple[str, int]:
        self.uses += 1
        if last:
            stop_fetching_inputs()
        return self.me, self.uses

    @modal.method()
    def count_and_stop(self, n: int) -> Iterator[int]:
        for i in range(n):
            if i == n // 2:
                stop_fetching_inputs()
            yield i


@app.cls(max_containers=1)
class NeverBegins(Me):
    """Its first container wants no inputs before it has begun."""

    flag: str = modal.parameter()

    @modal.enter()
    def look(self) -> None:
        if not os.path.exists(self.flag):
            note(self.flag, "stopped")
            stop_fetching_inputs()

    @modal.method()
    def use(self) -> str:
        return "used"


@app.cls(max_containers=1)
@modal.concurrent(max_inputs=3)
class SharedRetires(Me):
    @modal.method()
    def count(self, n: int) -> Iterator[int]:
        for i in range(n):
            time.sleep(0.02)
            yield i

    @modal.method()
    def use(self, last: bool) -> tuple[str, int]:
        self.uses += 1
        if last:
            stop_fetching_inputs()
            time.sleep(0.2)
        return self.me, self.uses
