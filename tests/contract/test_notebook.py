"""Functions by value: cells of a notebook, `serialized=True`, lambdas and closures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import raymodal as modal
from raymodal.exception import InvalidError

Notebook = Callable[[str], dict[str, Any]]

CELLS = """
import math
import raymodal as modal

app = modal.App("cells")
FACTOR = 10

class Point:
    def __init__(self, x):
        self.x = x

class Refused(Exception):
    def __init__(self, x):
        super().__init__(x)
        self.x = x

def helper(x):
    return math.floor(x) * FACTOR

@app.function(max_containers=2)
def scaled(x):
    return helper(x)

@app.function(max_containers=1)
def point(p):
    if p.x < 0:
        raise Refused(p.x)
    return Point(scaled.remote(p.x))

@app.function(max_containers=1)
async def ascaled(x):
    return helper(x)

@app.function(max_containers=1)
def count(n):
    for i in range(n):
        yield Point(i)
"""


def test_cells(engine: Any, notebook: Notebook) -> None:
    """Functions of a program without a file take their globals, helpers, classes and each other along."""
    cells = notebook(CELLS)

    with cells["app"].run():
        assert cells["scaled"].remote(1.5) == 10
        assert list(cells["scaled"].map([1, 2.5, 3])) == [10, 20, 30]
        assert cells["ascaled"].remote(2) == 20
        assert cells["scaled"].spawn(4).get() == 40
        found = cells["point"].remote(cells["Point"](7.0))
        assert type(found) is cells["Point"]
        assert found.x == 70
        assert [p.x for p in cells["count"].remote_gen(3)] == [0, 1, 2]
        with pytest.raises(cells["Refused"]) as caught:
            cells["point"].remote(cells["Point"](-1))
        assert caught.value.x == -1


def test_a_cell_that_is_run_again(engine: Any, notebook: Notebook) -> None:
    """The next run of the app has the new definition."""
    notebook("import raymodal as modal\napp = modal.App('again')\nWORD = 'old'")
    cell = "@app.function(max_containers=1)\ndef f():\n    return WORD, {n}"
    cells = notebook(cell.format(n=1))
    with cells["app"].run():
        assert cells["f"].remote() == ("old", 1)

    notebook("WORD = 'new'")
    cells = notebook(cell.format(n=2))
    with cells["app"].run():
        assert cells["f"].remote() == ("new", 2)


async def test_a_cell_on_a_running_loop(engine: Any, notebook: Notebook) -> None:
    """As in Jupyter: `with`, blocking calls and `async with` on a loop that runs."""
    cells = notebook(CELLS)

    with pytest.warns(modal.exception.AsyncUsageWarning), cells["app"].run():
        assert cells["scaled"].remote(1) == 10
        assert [x async for x in cells["scaled"].map([1, 2])] == [10, 20]
    async with cells["app"].run():
        assert await cells["scaled"].remote.aio(3) == 30


def test_closures_and_lambdas(engine: Any, run_app: Any) -> None:
    """What a function refers to comes along, by value."""
    app = modal.App("closures")
    table = np.arange(5)
    word = ["kept"]

    @app.function(serialized=True, max_containers=1)
    def look(i: int) -> tuple[int, str, str]:
        return int(table[i]), word[0], inner(i)

    def inner(i: int) -> str:
        return f"inner {i} {functools.reduce(lambda a, b: a + b, range(i), 0)}"

    double = app.function(serialized=True, name="double", max_containers=1)(lambda x: 2 * x)

    @app.function(serialized=True, max_containers=1)
    def both(x: int) -> Any:
        return double.remote(x), look.remote(x)

    word[0] = "as it was when the app began to run"
    run_app(app)
    word[0] = "changed"

    assert look.remote(3) == (3, "as it was when the app began to run", "inner 3 3")
    assert double.remote(4) == 8
    assert both.remote(2) == (4, (2, "as it was when the app began to run", "inner 2 1"))


def test_decorated_beneath(engine: Any, run_app: Any) -> None:
    """The object inside the decorator is called as it is."""
    app = modal.App("decorated")

    def twice(f: Any) -> Any:
        @functools.wraps(f)
        def wrapper(*args: Any) -> Any:
            return [f(*args), f(*args)]

        return wrapper

    @app.function(serialized=True, max_containers=1)
    @twice
    def f(x: int) -> int:
        return x + 1

    run_app(app)

    assert f.remote(1) == f.local(1) == [2, 2]


def test_a_nested_function_must_say_so(engine: Any) -> None:
    """A container could not import it."""
    app = modal.App("nested")

    with pytest.raises(InvalidError, match="serialized=True"):

        @app.function()
        def f() -> None:
            pass
