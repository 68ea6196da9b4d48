"""Decisions in words."""

from __future__ import annotations

import pytest

from raymodal.logic.autoscale import Ask, Decision, Room, Rules
from raymodal.logic.why import explain, have, holders, lacks, wishes

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limited_by", "demand", "rules", "words"),
    [
        ("demand", 1, Rules(), "1 input"),
        (
            "demand",
            7,
            Rules(target_inputs=3, buffer_containers=2),
            "7 inputs, 3 for each container, and buffer_containers=2",
        ),
        ("demand", 0, Rules(), "no inputs"),
        ("min_containers", 1, Rules(min_containers=4), "min_containers=4, 1 needed"),
        ("max_containers", 40, Rules(max_containers=8), "max_containers=8, 40 wanted"),
        ("scaledown_window", 0, Rules(min_containers=1), "idle for less than scaledown_window=60 s, 1 wanted"),
        ("busy", 2, Rules(), "those that work or start are not ended, 2 wanted"),
    ],
)
def test_a_decision(limited_by: str, demand: int, rules: Rules, words: str) -> None:
    """The knob that limited it, and the figures."""
    assert explain(Decision(1, limited_by), demand, rules) == words


def test_what_is_lacking() -> None:
    """Only that, with what is free of how much; and who has it."""
    ask, total = Ask(2.0, 512 * MIB, 1), Room(4.0, 1024 * MIB, 2, 4)
    others = [("f", Ask(1.0)), ("f", Ask(1.0)), ("g", Ask(0.0, 0, 1)), ("h", Ask(0.5))]

    free = Room(0.5, 768 * MIB, 0, 4)
    assert lacks(ask, free, total) == "2 CPUs (0.5 of 4 free) and 1 GPU (0 of 2 free)"
    assert holders(ask, free, others) == "'f' (2), 'g' (1), 'h' (1)"
    assert holders(ask, Room(4.0, 0, 0, 4), others) == "'g' (1)"
    assert lacks(ask, Room(4.0, 100 * MIB, 2, 4), total) == "512 MiB of memory (100 of 1,024 free)"
    assert lacks(ask, total, total).startswith("its turn")
    assert (wishes(ask), have(ask, free)) == (
        "2 CPUs and 512 MiB of memory and 1 GPU",
        "0.5 CPUs and 768 MiB of memory and 0 GPUs",
    )
    assert holders(Ask(1.0), Room(0, 0, 0, 1), [(tag, Ask(1.0)) for tag in "abcde"]).endswith("and 2 more")
