"""Where a map's inputs come from: any mixture of sync and async iterables, drawn lazily."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from raymodal import wire

_PLAIN_MAX = 4096  # longer strings and bytes are encoded one by one, so that their size is known
_SMALL = frozenset({int, float, bool, type(None)})
_EXACT = (list, tuple, range)  # drawing from these runs no user code and changes no item

Encode = Callable[[Any], Any]


class Source:
    """Draws the inputs of one map.

    Args:
        inputs: a list of iterables to zip, or for `star` one iterable of argument sequences.
        always: encode every input, also those that could travel jointly.

    Attributes:
        single: each input is one value (a map over one iterable), else a tuple of arguments.
        is_slow: the last draw ran into its time limit.
    """

    def __init__(self, inputs: Any, *, star: bool, always: bool = False, on_loop: bool = False) -> None:
        self._always = always
        self._drawn = 0
        self.is_slow = False
        sources = [inputs] if star else list(inputs)
        for source in sources:
            if not isinstance(source, Iterable | AsyncIterable):
                # An AssertionError in Modal too (MODAL_SEMANTICS 5.1); the text is what helps.
                raise AssertionError(
                    f"map inputs must be iterables, not {type(source).__name__}; pass a list, or use remote() for a single call"
                )
        self.single = not star and len(sources) == 1
        self._star = star
        # What is both, such as another map's results, is iterated in the way that does not block whoever draws.
        is_async = [isinstance(s, AsyncIterable) and (on_loop or not isinstance(s, Iterable)) for s in sources]
        self._is_async = any(is_async)
        self._exact = all(type(source) in _EXACT for source in sources)
        self._left: int | None = min((len(s) for s in sources), default=0) if self._exact else None
        self._its: list[Any] = [s.__aiter__() if a else iter(s) for s, a in zip(sources, is_async, strict=True)]
        self._zipped: Iterator[Any] | None = None
        if not self._is_async:
            self._zipped = self._its[0] if len(self._its) == 1 else zip(*self._its, strict=False)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._in_thread = False
        self._closed = False
        self._drawing: asyncio.Task[Any] | None = None

    def remaining(self) -> int | None:
        """Inputs not drawn yet, where the source knows."""
        return self._left

    def is_plain(self, value: Any) -> bool:
        """True if the value may travel in a joint pickle."""
        if self.single:
            return wire.is_primitive(value) and not (type(value) in (str, bytes) and len(value) > _PLAIN_MAX)
        return type(value) is tuple and all(
            wire.is_primitive(v) and not (type(v) in (str, bytes) and len(v) > _PLAIN_MAX) for v in value
        )

    def plain(self, values: Sequence[Any]) -> bool:
        """True if all of them may."""
        if self.single:
            types = set(map(type, values))
            if not types <= wire.PRIMITIVES:
                return False
            # Looked at one by one only where a size could be large: this is on the path of every input.
            return types.isdisjoint((str, bytes)) or all(map(self.is_plain, values))
        return all(map(self.is_plain, values))

    def draw(self, limit: int, seconds: float, encode: Encode) -> tuple[list[Any], bool]:
        """At most `limit` inputs, fewer if that takes longer than `seconds`; and whether that was all. Runs in the calling thread.

        Inputs that must not share a pickle come encoded, the others as they are.

        Raises:
            BaseException: whatever the user's iterators raise, and what pickling raises.
        """
        if self._is_async:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
            return self._loop.run_until_complete(self._draw_async(limit, seconds, encode))
        if self._exact:
            return self._draw_exact(limit, encode)
        return self._draw_slow(limit, seconds, encode)

    def _draw_exact(self, limit: int, encode: Encode) -> tuple[list[Any], bool]:
        assert self._zipped is not None
        assert self._left is not None
        values = self._shaped(list(islice(self._zipped, limit)))
        # A list may have changed its length since.
        exhausted = len(values) < limit or len(values) >= self._left
        self._left = 0 if exhausted else self._left - len(values)
        first, self._drawn = self._drawn, self._drawn + len(values)
        if self._always or not self.plain(values):
            values = [self._encoded(value, encode, first + at) for at, value in enumerate(values)]
        return values, exhausted

    def _encoded(self, value: Any, encode: Encode, index: int) -> Any:
        if not self._always and self.is_plain(value):
            return value
        try:
            return encode(value)
        except Exception as error:
            error.add_note(f"while input {index} of a map was made ready to be sent")
            raise

    def _draw_slow(self, limit: int, seconds: float, encode: Encode) -> tuple[list[Any], bool]:
        assert self._zipped is not None
        items: list[Any] = []
        clock = time.monotonic
        stop_at = clock() + seconds
        append = items.append
        single_plain = self.single and not self._always
        drawn = self._drawn
        self.is_slow = False
        for value in islice(self._zipped, limit):
            # A generator may change what it yielded before it yields again, so it is encoded first.
            if single_plain and type(value) in _SMALL:
                append(value)
            else:
                append(self._encoded(self._shape(value), encode, drawn))
            drawn += 1
            if clock() > stop_at:
                self.is_slow = True
                break
        exhausted = not self.is_slow and len(items) < limit
        self._drawn = drawn
        return items, exhausted

    def _shape(self, value: Any) -> Any:
        return tuple(value) if self._star and type(value) is not tuple else value

    def _shaped(self, values: list[Any]) -> list[Any]:
        return [v if type(v) is tuple else tuple(v) for v in values] if self._star else values

    async def draw_async(self, limit: int, seconds: float, encode: Encode) -> tuple[list[Any], bool]:
        """The same on the caller's loop; sync iterators that may block run in a thread."""
        if self._exact:
            return self._draw_exact(limit, encode)
        if not self._is_async:
            return await asyncio.to_thread(self._draw_in_thread, limit, seconds, encode)
        self._drawing = asyncio.current_task()
        try:
            return await self._draw_async(limit, seconds, encode)
        finally:
            self._drawing = None

    def _draw_in_thread(self, limit: int, seconds: float, encode: Encode) -> tuple[list[Any], bool]:
        with self._lock:
            if self._closed:
                return [], True
            self._in_thread = True
        try:
            return self._draw_slow(limit, seconds, encode)
        finally:
            with self._lock:
                self._in_thread = False
                closed = self._closed
            if closed:
                self._close_sync()

    async def _draw_async(self, limit: int, seconds: float, encode: Encode) -> tuple[list[Any], bool]:
        items: list[Any] = []
        stop_at = time.monotonic() + seconds
        self.is_slow = False
        while len(items) < limit:
            row = []
            for it in self._its:
                try:
                    row.append(await it.__anext__() if hasattr(it, "__anext__") else next(it))
                except (StopIteration, StopAsyncIteration):
                    return items, True
            value = row[0] if self.single or self._star else tuple(row)
            items.append(self._encoded(self._shape(value), encode, self._drawn))
            self._drawn += 1
            if time.monotonic() > stop_at:
                self.is_slow = True
                break
        return items, False

    def close(self) -> None:
        """Let generators run their `finally`; other iterators (an open file) stay as they are."""
        self._closed = True
        try:
            self._close_sync()
        finally:
            loop, self._loop = self._loop, None
            if loop is not None:
                try:
                    loop.run_until_complete(self._close_async())
                    loop.run_until_complete(loop.shutdown_asyncgens())
                finally:
                    loop.close()

    async def aclose(self) -> None:
        """The same on the caller's loop. What is drawing in a thread is closed there, once it yields."""
        with self._lock:
            self._closed = True
            in_thread = self._in_thread
        drawing = self._drawing
        if drawing is not None and drawing is not asyncio.current_task():
            # An async generator that runs cannot be closed.
            drawing.cancel()
            await asyncio.wait([drawing])
        if not in_thread:
            self._close_sync()
        await self._close_async()

    def _close_sync(self) -> None:
        for it in self._its:
            if isinstance(it, Generator):
                it.close()

    async def _close_async(self) -> None:
        for it in self._its:
            if isinstance(it, AsyncGenerator):
                await it.aclose()
