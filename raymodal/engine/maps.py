"""`map` and its relatives: where inputs come from, in which order outcomes go out, and who pumps.

The sync form is pumped in the caller's thread: the input iterator runs there, and only while the caller waits for a result. While the caller works on one, the
run is paused and its idle slots are others' to use.
"""

from __future__ import annotations

import asyncio
import functools
import queue
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from raymodal import wire
from raymodal._warn import WARNINGS, warn_once
from raymodal.engine.client import Callee, caught_up
from raymodal.engine.run import AsyncInbox, Encoded, Run, new_call_id, take_events, take_events_async
from raymodal.engine.sources import Source
from raymodal.exception import ResourceExhaustedError
from raymodal.wire import Big, Failure

DRAW_S = 0.005  # drawing inputs yields to other work after this long
SPAWN_CHUNK = 512
SPAWN_WAIT_S = 5.0


class _Outputs:
    """Puts outcomes into the order the caller wants, a bundle at a time."""

    def __init__(self, run: Run, *, ordered: bool, return_exceptions: bool) -> None:
        self._run = run
        self._ordered = ordered
        self._return = return_exceptions
        self._next = 0
        self._held: dict[int, tuple[int, list[Any]]] = {}

    def ready(self) -> Iterator[list[Any]]:
        """Lists of values that may be given to the caller now.

        Raises:
            BaseException: the first failure to arrive, unless exceptions are to be returned.
        """
        delivered = self._run.delivered
        while delivered:
            indices, values, clean = delivered.popleft()
            if not clean:
                values = [self._checked(value) for value in values]
            if not self._ordered:
                yield values
                continue
            if isinstance(indices, tuple):
                first = indices[0]
                if first == self._next:
                    self._next += len(values)
                    yield values
                else:
                    self._held[first] = (len(values), values)
            else:
                for index, value in zip(indices, values, strict=True):
                    self._held[index] = (1, [value])
            while self._held and (held := self._held.pop(self._next, None)) is not None:
                self._next += held[0]
                yield held[1]

    def _checked(self, value: Any) -> Any:
        if type(value) is Failure:
            error = wire.decode_failure(value)
            # Only ordinary exceptions are returned; a remote SystemExit still raises.
            if self._return and isinstance(error, Exception):
                return error
            raise error
        if type(value) is wire.Undecodable:
            if self._return:
                return value.error
            raise value.error
        return value


def _start_run(
    callee: Callee,
    inputs: Any,
    kwargs: dict[str, Any],
    star: bool,
    post: Callable[[Any], None],
    *,
    on_loop: bool = False,
) -> tuple[Run, Source]:
    source = Source(inputs, star=star, on_loop=on_loop)
    blob = None
    if kwargs:
        encoded = callee.pool.app.encoder().one(kwargs)
        blob = encoded if isinstance(encoded, bytes) else wire.dumps(kwargs)
    kind = wire.JOINT_VALUE if source.single else wire.JOINT_ARGS
    run = Run(callee.pool, new_call_id(), post, kind=kind, kwargs=blob, method=callee.method)
    run.hint = source.remaining()
    if run.hint == 0:
        run.ledger.close()  # nothing will ever be drawn, so nothing else would find out
    return run, source


def _encoder_of(run: Run) -> Callable[[Any], Any]:
    """Makes a drawn input ready to travel, before its source can change it. Raises what pickling raises."""
    app = run.app

    def encode(value: Any) -> Encoded:
        data = app.encoder().one(value)
        return Encoded(data.blob, [app.link.hold(b) for b in data.buffers]) if isinstance(data, Big) else Encoded(data)

    return encode


def map_sync(
    callee: Callee, inputs: Any, kwargs: dict[str, Any], *, ordered: bool, return_exceptions: bool, star: bool
) -> Iterator[Any]:
    """Pump a map in the calling thread. A generator: nothing happens before the first `next`, and inputs are drawn only inside one."""
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    run, source = _start_run(callee, inputs, kwargs, star, inbox.put)
    outputs = _Outputs(run, ordered=ordered, return_exceptions=return_exceptions)
    ledger = run.ledger
    encode = _encoder_of(run)
    close = run.close
    try:
        while True:
            if not ledger.closed and not (run.delivered and source.is_slow):
                room = run.room()
                if room > 0:
                    if source.is_slow:
                        run.pause()  # it may block: slots that idle meanwhile are others' to use
                    _drawn(run, source, *source.draw(room, DRAW_S, encode))
                    run.resume()
            run.send_all()
            if run.delivered:
                run.progress()
                run.app.link.catch_up()
                for values in outputs.ready():
                    run.pause()
                    yield from values
                    run.resume()
            if ledger.finished:
                run.progress(final=True)
                return
            # Waiting only where nothing else can be done: more inputs may be there to draw.
            take_events(run, inbox, wait=ledger.closed or run.room() == 0)
    except GeneratorExit:
        # Maybe by the garbage collector, which comes in the middle of anything: this thread may hold the very locks that closing takes.
        close = functools.partial(run.app.soon, run.close)
        raise
    finally:
        close()
        source.close()


def _drawn(run: Run, source: Source, items: list[Any], exhausted: bool) -> None:
    if items:
        run.add(items)
    run.hint = source.remaining()
    if exhausted:
        run.ledger.close()


async def map_async(
    callee: Callee, inputs: Any, kwargs: dict[str, Any], *, ordered: bool, return_exceptions: bool, star: bool
) -> AsyncIterator[Any]:
    """Pump a map on the caller's loop."""
    inbox = AsyncInbox()
    run, source = _start_run(callee, inputs, kwargs, star, inbox.put, on_loop=True)
    outputs = _Outputs(run, ordered=ordered, return_exceptions=return_exceptions)
    ledger = run.ledger
    encode = _encoder_of(run)
    drawing: asyncio.Task[Any] | None = None
    try:
        while True:
            if drawing is not None and drawing.done():
                _drawn(run, source, *drawing.result())
                drawing = None
            if not ledger.closed and drawing is None and (room := run.room()) > 0:
                drawing = asyncio.ensure_future(source.draw_async(room, DRAW_S, encode))
                drawing.add_done_callback(lambda _: inbox.put(("drawn",)))
            run.send_all()
            if run.delivered:
                run.progress()
                await caught_up(run.app.link)
                for values in outputs.ready():
                    run.pause()
                    for value in values:
                        yield value
                    run.resume()
            if ledger.finished:
                run.progress(final=True)
                return
            if drawing is not None:
                await asyncio.sleep(0)
                if not drawing.done():
                    run.pause()
            await take_events_async(run, inbox)
            run.resume()
    finally:
        if drawing is not None:
            drawing.cancel()
        run.close()
        await source.aclose()


async def _encoded_calls(
    callee: Callee, inputs: Any, kwargs: dict[str, Any]
) -> AsyncIterator[list[tuple[str, bytes, list[Any]]]]:
    source = Source(inputs, star=False, always=True, on_loop=True)

    def encode(value: Any) -> tuple[str, bytes, list[Any]]:
        return (wire.EACH_CALL, *callee.encode_call((value,) if source.single else tuple(value), kwargs))

    try:
        exhausted = False
        while not exhausted:
            chunk, exhausted = await source.draw_async(min(SPAWN_CHUNK, callee.pool.app.limits.spawned), 0.05, encode)
            if chunk:
                yield chunk
    finally:
        await source.aclose()


async def _when_there_is_room(ask: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Spawn a chunk; at the limit wait for as long as it takes, as Modal's client does."""
    wait_s = 0.05
    while True:
        try:
            return await ask(*args)
        except ResourceExhaustedError as error:
            warn_once("limits", f"{str(error).split('. ')[0]}. {WARNINGS['limits']}", stacklevel=6)
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, SPAWN_WAIT_S)


async def spawn_each(callee: Callee, inputs: Any, kwargs: dict[str, Any]) -> list[str]:
    ids: list[str] = []
    async for chunk in _encoded_calls(callee, inputs, kwargs):
        ids += await _when_there_is_room(callee.pool.ask, "spawn_each", chunk, callee.method)
    return ids


async def spawn_many(callee: Callee, inputs: Any, kwargs: dict[str, Any]) -> tuple[str, int]:
    app = callee.pool.app

    async def more(call_id: str, chunk: list[Any]) -> None:
        await app.on_loop(app.link.controller("spawn_more", call_id, chunk))

    call_id: str | None = None
    count = 0
    try:
        async for chunk in _encoded_calls(callee, inputs, kwargs):
            if call_id is None:
                call_id = await _when_there_is_room(callee.pool.ask, "spawn", chunk, False, callee.method)
            else:
                await _when_there_is_room(more, call_id, chunk)
            count += len(chunk)
    finally:
        if call_id is not None:
            await more(call_id, [])
    if call_id is None:
        call_id = await callee.pool.ask("spawn", [], True, callee.method)
    return call_id, count
