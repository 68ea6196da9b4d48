"""One process's way to a container with several slots: what is sent together, what must be alone, and the container's end."""

from __future__ import annotations

from typing import Any

from raymodal import wire
from raymodal.engine.channel import Channel, GoneShared
from raymodal.engine.protocol import Gone


class Link:
    """Keeps what is sent until the test answers."""

    client_id = "driver"

    def __init__(self) -> None:
        self.open: list[tuple[list[Any], Any]] = []
        self.told: list[tuple[str, ...]] = []

    def tell(self, *what: str) -> None:
        self.told.append(what)

    def submit(self, container: Any, method: str, args: tuple[Any, ...], on_done: Any) -> None:
        assert (container, method, args[0]) == ("box", "exchange", "driver")
        self.open.append(([*wire.decode_messages(args[1])], on_done))

    def sent(self) -> list[list[str]]:
        return [[args[0] for _, _, args, _ in messages] for messages, _ in self.open]

    def answer(self, at: int, **replies: bytes) -> None:
        """The exchange at this place returns with these, by the first argument of their messages."""
        _, on_done = self.open.pop(at)
        on_done(wire.encode_messages([(NUMBERS[name], "", (value,), 0) for name, value in replies.items()]))


NUMBERS: dict[str, int] = {}


class Told:
    def __init__(self) -> None:
        self.of: dict[str, Any] = {}
        self.sent: list[str] = []

    def submit(self, channel: Channel, name: str, *, method: str = "run", **more: Any) -> None:
        NUMBERS[name] = channel._next + 1
        channel.submit(
            method,
            (name,),
            [],
            lambda raw: self.of.__setitem__(name, raw),
            on_sent=lambda: self.sent.append(name),
            **more,
        )


def made() -> tuple[Link, Channel, Told]:
    link = Link()
    return link, Channel(link, "ta-1", "box"), Told()


def test_two_exchanges_at_most() -> None:
    """One waits, one delivers; what comes meanwhile goes together, as soon as one is back."""
    link, channel, told = made()
    for name in "abcd":
        told.submit(channel, name)
    assert link.sent() == [["a"], ["b"]]

    link.answer(0)

    assert link.sent() == [["b"], ["c", "d"]]
    assert told.sent == ["a", "b", "c", "d"]


def test_what_is_sent_later_goes_together() -> None:
    """With one flush."""
    link, channel, told = made()
    for name in "abc":
        told.submit(channel, name, later=True)
    assert link.sent() == []
    channel.flush()
    assert link.sent() == [["a", "b", "c"]]


def test_outcomes_are_asked_for_while_something_is_there() -> None:
    """An exchange that brings some of them is followed by another, the last one by none."""
    link, channel, told = made()
    told.submit(channel, "a", later=True)
    told.submit(channel, "b", later=True)
    channel.flush()

    link.answer(0, b=b"B")
    assert (told.of, link.sent()) == ({"b": b"B"}, [[]])
    link.answer(0)
    assert link.sent() == [[]]
    link.answer(0, a=b"A")
    assert (told.of, link.sent()) == ({"b": b"B", "a": b"A"}, [])


def test_an_input_that_must_be_alone() -> None:
    """It waits for all others, and they for it; generators that run already are not held up."""
    link, channel, told = made()
    told.submit(channel, "a")
    told.submit(channel, "lone", alone=True)
    told.submit(channel, "b")
    assert link.sent() == [["a"]]

    link.answer(0, a=b"")
    assert link.sent() == [["lone"]]
    told.submit(channel, "pull", method="next_stream")
    assert link.sent() == [["lone"], ["pull"]]
    link.answer(1, pull=b"")
    link.answer(0, lone=b"")
    assert link.sent() == [["b"]]


def test_the_end_of_the_container() -> None:
    """What was there is lost with others; what had not left is untouched; what comes later too."""
    link, channel, told = made()
    for name in "abc":
        told.submit(channel, name)
    _, on_done = link.open[0]
    on_done(Gone("killed"))

    assert {name: raw.was_alone for name, raw in told.of.items() if isinstance(raw, GoneShared)} == {
        "a": False,
        "b": False,
    }
    assert wire.decode_reply(told.of["c"])[0].refused == "draining"
    told.submit(channel, "d")
    assert wire.decode_reply(told.of["d"])[0].refused == "draining"
    link.open[1][1](Gone("killed"))
    assert len(told.of) == 4


def test_the_end_of_a_container_with_one_input() -> None:
    """It was alone."""
    link, channel, told = made()
    told.submit(channel, "a")
    link.open[0][1](Gone("killed"))
    assert told.of["a"].was_alone


def test_buffers_find_their_replies() -> None:
    """Large buffers come beside the bytes, in the order of the replies."""
    link, channel, told = made()
    for name in "ab":
        told.submit(channel, name, later=True)
    channel.flush()
    blob = wire.encode_messages([(NUMBERS["b"], "", (b"B",), 2), (NUMBERS["a"], "", (b"A",), 1)])
    link.open.pop()[1]([blob, "b1", "b2", "a1"])
    assert told.of == {"b": [b"B", "b1", "b2"], "a": [b"A", "a1"]}
