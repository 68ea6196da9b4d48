"""The work that all contenders do, in plain Python, and its inputs. Light to import: every worker does."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

SEED = 7


def echo(x: Any) -> Any:
    """Hand the argument back."""
    return x


def double(x: int) -> int:
    """The smallest work that shows whether results are right and in order."""
    return 2 * x


def touch(record: dict[str, Any]) -> dict[str, Any]:
    """Read and write a record of about 1 KB."""
    record["seen"] = True
    return record


def shout(text: str) -> str:
    """Change each character of a short text."""
    return text.upper()


def nap(seconds: float) -> float:
    """Take as long as the input says."""
    if seconds:
        time.sleep(seconds)
    return seconds


def records(n: int) -> list[dict[str, Any]]:
    """Records of about 1 KB each: ten fields of a hundred characters."""
    return [{"id": i, **{f"field{k}": f"{i:08d}" + "x" * 92 for k in range(10)}} for i in range(n)]


def texts(n: int) -> list[str]:
    """Distinct texts of 100 characters."""
    return [f"{i:010d}" + "abc" * 30 for i in range(n)]


def naps(n: int, slow: int, seconds: float) -> list[float]:
    """`n` naps, `slow` of them of `seconds` and the rest of none, the same in each run."""
    chosen = set(random.Random(SEED).sample(range(n), slow))
    return [seconds if i in chosen else 0.0 for i in range(n)]


def in_chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Cut into lists of `size`; the last may be shorter."""
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def check(got: Sequence[Any], expected: Sequence[Any]) -> None:
    """Raise unless the results are right, complete and in order."""
    if len(got) != len(expected):
        raise AssertionError(f"{len(got):,} results instead of {len(expected):,}")
    if list(got) != list(expected):
        at = next(i for i, (one, other) in enumerate(zip(got, expected, strict=True)) if one != other)
        raise AssertionError(f"result {at} is {got[at]!r}, not {expected[at]!r}")


class PeakMemory:
    """Growth of this process's resident memory within a `with` block.

    On Linux the kernel keeps the peak and can be told to start anew; elsewhere the growth is taken at the end only.
    """

    growth_mib = 0.0

    def __enter__(self) -> PeakMemory:
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            pass
        self._before_kib = _status_kib("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.growth_mib = (_status_kib("VmHWM") - self._before_kib) / 1024


def _status_kib(field: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        import resource

        # Kilobytes on Linux, bytes on macOS; without /proc this is macOS.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def meet(folder: str, n: int, patience_s: float = 60.0) -> int:
    """Wait until `n` processes have come to a folder; this one's pid."""
    Path(folder, str(os.getpid())).touch()
    deadline = time.monotonic() + patience_s
    while len(os.listdir(folder)) < n:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(os.listdir(folder))} of {n} came")
        time.sleep(0.01)
    return os.getpid()
