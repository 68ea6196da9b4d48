"""Large values and long maps: what crosses, what is copied, and what the caller's memory does."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raymodal as modal

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]

MIB = 1 << 20


def memory(field: str) -> int:
    """A figure of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def test_a_million_inputs_from_a_generator(run_app: Any) -> None:
    """Read as they are needed, given back as they are used: the caller's memory does not grow with their number."""
    app = modal.App("million")

    @app.function(serialized=True, max_containers=2)
    def f(x: int) -> int:
        return x + 1

    run_app(app)
    assert list(f.map(range(1000))) == list(range(1, 1001))
    gc.collect()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here

    expected = 1
    for y in f.map(x for x in range(1_000_000)):
        assert y == expected
        expected += 1

    assert expected == 1_000_001
    assert memory("VmHWM") - before < 150 * MIB


def test_a_slow_reader_holds_a_generator_back(run_app: Any) -> None:
    """Nobody reads ahead without bound when results are not taken."""
    app = modal.App("lazy")

    @app.function(serialized=True, max_containers=2)
    def f(x: int) -> int:
        return x

    run_app(app)
    read = 0

    def inputs() -> Any:
        nonlocal read
        while True:
            read += 1
            yield read

    results = iter(f.map(inputs()))
    assert [next(results) for _ in range(10)] == list(range(1, 11))
    time.sleep(1.0)  # time to read far ahead
    ahead = read
    results.close()

    assert ahead < 500_000


def test_a_hundred_megabytes_there_and_back(run_app: Any) -> None:
    """Argument and result are whole, writable, and the callee's changes are its own."""
    app = modal.App("large")

    @app.function(serialized=True, max_containers=1)
    def double(array: Any) -> Any:
        assert array.flags.writeable
        array *= 2
        return array

    run_app(app)
    array = np.arange(100_000_000 // 8, dtype=np.int64)
    kept = array.copy()

    result = double.remote(array)

    assert np.array_equal(array, kept)
    assert np.array_equal(result, kept * 2)
    assert result.flags.writeable
    result[0] = 7
    assert double.remote(np.ones(3)).tolist() == [2.0, 2.0, 2.0]


def test_large_values_in_a_map_and_inside_others(run_app: Any) -> None:
    """Several at once, nested, with plain bytes beside them; each arrives as it was sent."""
    app = modal.App("large-map")

    @app.function(serialized=True, max_containers=2)
    def f(item: Any) -> Any:
        array = item["array"]
        array += 1
        return {"sum": int(array.sum()), "array": array, "bytes": item["bytes"][:10], "text": item["text"] * 2}

    run_app(app)
    items = [
        {"array": np.full(2_000_000, n, dtype=np.int64), "bytes": bytes([n]) * 5_000_000, "text": "t" * 1_000_000}
        for n in range(6)
    ]

    for n, result in enumerate(f.map(items)):
        assert result["sum"] == (n + 1) * 2_000_000
        assert result["array"].flags.writeable
        assert int(result["array"][-1]) == n + 1
        assert result["bytes"] == bytes([n]) * 10
        assert len(result["text"]) == 2_000_000
    assert all(int(item["array"][0]) == n for n, item in enumerate(items))
