"""How many inputs at once are timed; single calls are in test_work.py."""

import pytest

from benchmarks.timing import time_inputs


def test_all_inputs_at_once():
    """Inputs per second, of whatever yields the results."""
    figures = time_inputs(lambda: (2 * x for x in range(3)), range(0, 6, 2))

    assert list(figures) == ["rate"]
    assert figures["rate"] > 0


@pytest.mark.parametrize("got", [[1, 2], [1, 2, 4], [2, 1, 3]])
def test_wrong_results_are_not_timed(got):
    """Too few, wrong ones, or in another order."""
    with pytest.raises(AssertionError, match="result"):
        time_inputs(lambda: got, [1, 2, 3])
