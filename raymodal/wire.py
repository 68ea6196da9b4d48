"""What crosses a process border: bundles of inputs one way, outcomes the other. No Ray, no clock.

A **bundle** is one `bytes`: a pickled head followed by a body. The body is either one joint pickle (only where every value is an immutable
primitive, so that sharing cannot be seen) or one isolated pickle per input, with their lengths in the head: two inputs never share an object,
and one that cannot be pickled or unpickled fails alone.
A **reply** has the same shape. Buffers of `BUFFER_MIN` bytes and more travel beside the bytes (pickle protocol 5), so that an engine can put them into
shared memory; they arrive as copies, because user code may write into what it receives.
"""

from __future__ import annotations

import io
import itertools
import pickle
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle

from raymodal import exception as exc_types
from raymodal._traceback import capture, rebuild

BUFFER_MIN = 512 * 1024  # below this a buffer is cheaper inside the bytes than as an object of its own
SINGLE_MIN = 90_000  # an input this large travels alone: Ray inlines arguments up to 100 KB
BUNDLE_BYTES = 90_000  # most bytes of inputs in one bundle, unless a single one is larger: beyond it Ray stores the argument as an object, which doubles a call's cost
PRIMITIVES = frozenset({int, str, bytes, float, bool, type(None)})

# Kinds of body: v/t joint pickle of a list of values / of argument tuples; V/T one pickle each; C one pickle each of (args, kwargs).
JOINT_VALUE, JOINT_ARGS, EACH_VALUE, EACH_ARGS, EACH_CALL = "v", "t", "V", "T", "C"

Indices = tuple[int, int] | list[int]  # (first, count), or any positions


def count_of(indices: Indices) -> int:
    return indices[1] if isinstance(indices, tuple) else len(indices)


def expand(indices: Indices) -> Sequence[int]:
    return range(indices[0], indices[0] + indices[1]) if isinstance(indices, tuple) else indices


def sub_indices(indices: Indices, start: int, stop: int) -> Indices:
    """Positions `start` up to `stop` of a bundle, in the most compact form."""
    if isinstance(indices, tuple):
        return (indices[0] + start, stop - start)
    return indices[start:stop]


class Big:
    """One encoded value with its large buffers beside it."""

    __slots__ = ("blob", "buffers")

    def __init__(self, blob: bytes, buffers: list[Any]) -> None:
        self.blob = blob
        self.buffers = buffers

    @property
    def size(self) -> int:
        return len(self.blob) + sum(
            pickle.PickleBuffer(b).raw().nbytes if isinstance(b, pickle.PickleBuffer) else 0 for b in self.buffers
        )


class Encoder:
    """Encodes values one by one, each apart from all others. One per thread: it keeps its pickler."""

    def __init__(self) -> None:
        self._busy = False
        self._file = io.BytesIO()
        self._buffers: list[Any] = []
        self._pickler = cloudpickle.Pickler(self._file, protocol=5, buffer_callback=self._keep_inside)

    def _keep_inside(self, buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < BUFFER_MIN:
            return True
        self._buffers.append(buffer)
        return False

    def one(self, value: Any) -> bytes | Big:
        """Encode `value`.

        Raises:
            Exception: whatever pickling raises (`TypeError`, `PicklingError`, `RecursionError`, the user's own); nothing is left behind.
        """
        if self._busy:
            # User code that runs while its object is pickled (`__getstate__`, `__reduce__`) makes a call of its own.
            return Encoder().one(value)
        file, pickler = self._file, self._pickler
        file.seek(0)
        file.truncate()
        self._busy = True
        try:
            pickler.dump(value)
        except BaseException:
            self._buffers.clear()
            raise
        finally:
            self._busy = False
            # It may hold half of a failed object graph; and ids of globals, which may be another module's the next time.
            pickler.clear_memo()
            pickler.globals_ref.clear()
        blob = file.getvalue()
        if self._buffers:
            buffers, self._buffers = self._buffers, []
            return Big(blob, buffers)
        return blob


def all_primitive(values: Iterable[Any]) -> bool:
    """True if no value could be changed in place, so that values may share one pickle."""
    return PRIMITIVES.issuperset(map(type, values))


def is_primitive(value: Any) -> bool:
    return type(value) in PRIMITIVES


@dataclass(slots=True)
class BundleHead:
    """What a container needs to know of a bundle besides its values.

    Attributes:
        kind: of the body, see the constants above.
        epoch: the container's epoch when it was sent; an older one than the container's present makes it return untouched.
        bundle_id: unique per sending process.
        sender: the client that sent it, where sealed outcomes go.
        call_id: `fc-...`.
        indices: positions in the call.
        kwargs: pickled keyword arguments shared by all inputs, or None.
        budget_s: stop between inputs after this long and return the rest.
        pipelined: another bundle may be queued behind this one, so an input that overruns must free it.
        method: which method of a class; empty for functions.
    """

    kind: str
    epoch: int
    bundle_id: int
    sender: str
    call_id: str
    indices: Indices
    kwargs: bytes | None
    budget_s: float
    pipelined: bool
    method: str = ""


def encode_bundle(head: BundleHead, items: Sequence[Any]) -> bytes:
    """Join a head and its items: raw values for the joint kinds, else each item's own pickle."""
    joint = head.kind in (JOINT_VALUE, JOINT_ARGS)
    lengths = None if joint else [len(item) for item in items]
    top = pickle.dumps(
        (
            head.kind,
            head.epoch,
            head.bundle_id,
            head.sender,
            head.call_id,
            head.indices,
            head.kwargs,
            head.budget_s,
            head.pipelined,
            head.method,
            lengths,
        ),
        5,
    )
    if joint:
        return top + pickle.dumps(items if type(items) is list else list(items), 5)
    return b"".join((top, *items))


class Body:
    """The values of a bundle or reply, read at any position. One that cannot be unpickled leaves the others readable."""

    __slots__ = ("_buffers", "_data", "_starts", "_values")

    def __init__(self, data: memoryview, lengths: list[int] | None, buffers: Sequence[Any] = ()) -> None:
        self._data = data
        self._buffers = writable(buffers) if buffers else None
        self._values: list[Any] | None = None
        self._starts: list[int] = []
        if lengths is None:
            # Only immutable primitives travel jointly, so no user code runs here.
            self._values = pickle.loads(data) if len(data) else []
        else:
            self._starts = [0, *itertools.accumulate(lengths)]

    @property
    def joint(self) -> list[Any] | None:
        """All values at once, where they travelled jointly."""
        return self._values

    def __getitem__(self, at: int) -> Any:
        if self._values is not None:
            return self._values[at]
        return pickle.loads(self._data[self._starts[at] : self._starts[at + 1]], buffers=self._buffers)

    def raw(self, at: int) -> bytes:
        """One value still encoded."""
        if self._values is not None:
            return pickle.dumps(self._values[at], 5)
        return bytes(self._data[self._starts[at] : self._starts[at + 1]])

    def __len__(self) -> int:
        return len(self._values) if self._values is not None else len(self._starts) - 1


def decode_bundle(blob: bytes, buffers: Sequence[Any] = ()) -> tuple[BundleHead, Body]:
    file = io.BytesIO(blob)
    *head, lengths = pickle.load(file)
    return BundleHead(*head), Body(memoryview(blob)[file.tell() :], lengths, buffers)


_read_only = False


def set_read_only(flag: bool) -> None:
    """This process takes large buffers as they lie in shared memory, without a copy; user code cannot write into them then."""
    global _read_only
    _read_only = flag


def writable(buffers: Sequence[Any]) -> list[Any]:
    """Copies of received buffers that user code may write into; the originals live read-only in shared memory."""
    if _read_only:
        return list(buffers)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        # numpy asks for huge pages, which halves the page faults of a fresh 100 MB.
        return [numpy.array(numpy.frombuffer(b, dtype=numpy.uint8)) for b in buffers]
    return [bytearray(b) for b in buffers]


def encode_messages(messages: Sequence[tuple[int, str, tuple[Any, ...], int]]) -> bytes:
    """Several messages, to or from a container that runs several inputs at once, as one.

    Args:
        messages: (number, method, arguments, how many of the buffers beside the bytes are its own).
    """
    return pickle.dumps(messages, 5)


def decode_messages(blob: bytes) -> Sequence[tuple[int, str, tuple[Any, ...], int]]:
    messages: Sequence[tuple[int, str, tuple[Any, ...], int]] = pickle.loads(blob)
    return messages


# --- outcomes ---------------------------------------------------------------------------------------------------------------------------------

USER, TIMEOUT, CANCELLED, START, LOST, UNPICKLABLE, BAD_INPUT = (
    "user",
    "timeout",
    "cancelled",
    "start",
    "lost",
    "unpicklable",
    "bad_input",
)


@dataclass(slots=True)
class Failure:
    """How one attempt at an input failed.

    Attributes:
        kind: USER (an exception of the user's code), TIMEOUT, CANCELLED, START (the container could not start), LOST (it went away, or gave the input up),
            UNPICKLABLE (the exception cannot be pickled), BAD_INPUT (the input could not be unpickled in the container).
        exc: the pickled exception, or None.
        text: its one-line text.
        frames: the user's remote frames.
        where: id of the container.
    """

    kind: str
    exc: bytes | None
    text: str
    frames: Any = None
    where: str = ""

    def pack(self) -> tuple[Any, ...]:
        return (self.kind, self.exc, self.text, self.frames, self.where)

    @property
    def trace(self) -> str:
        """The remote traceback as text, for when the exception itself cannot be rebuilt."""
        frames = getattr(self.frames, "frames", ())
        rows = [traceback.FrameSummary(f.filename, f.lineno, f.name, line=f.line) for f in frames]
        return "Traceback (most recent call last):\n" + "".join(traceback.format_list(rows)) + self.text


_MAX_REPR = 2 * 1024 * 1024


def _text_of(exc: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception_only(exc)).strip()
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        text = f"{type(exc).__name__} (its text cannot be shown: __str__ failed)"
    return text[:_MAX_REPR]


def encode_failure(exc: BaseException, where: str, kind: str = USER) -> Failure:
    """Turn an exception of user code into what travels. Never raises."""
    text = _text_of(exc)
    try:
        frames = capture(exc)
    except Exception:  # noqa: BLE001 - the report must not fail because of its decoration
        frames = None
    try:
        blob: bytes | None = cloudpickle.dumps(exc, protocol=5)
    except Exception:  # noqa: BLE001 - unpicklable exceptions travel as text
        blob = None
        kind = UNPICKLABLE if kind == USER else kind
    return Failure(kind, blob, text, frames, where)


def decode_failure(failure: Failure) -> BaseException:
    """The exception that the caller sees, with the remote frames as its traceback (MODAL_SEMANTICS 7.2 and 7.3).

    Returns:
        The user's own exception where it can be rebuilt; `ExecutionError` where its class cannot; `SerializationError` where it could not be pickled;
        `FunctionTimeoutError`, `RemoteError`, `InternalFailure` for what the platform reports.
    """
    if failure.kind == TIMEOUT:
        return _with_frames(exc_types.FunctionTimeoutError(failure.text), failure)
    if failure.kind == CANCELLED:
        return exc_types.RemoteError(failure.text)
    if failure.kind == LOST:
        return exc_types.InternalFailure(failure.text)
    if failure.kind == UNPICKLABLE:
        error = exc_types.SerializationError(
            f"The remote exception could not be pickled, so only its text arrived: {failure.text}\n\nRemote traceback:\n{failure.trace}"
        )
        return _with_frames(error, failure)
    if failure.exc is None:
        return exc_types.RemoteError(failure.text)
    try:
        value = pickle.loads(failure.exc)
        if not isinstance(value, BaseException):
            raise TypeError(f"it unpickled to {type(value).__name__}, which is no exception")
    except Exception as local:  # noqa: BLE001 - the user's class may do anything while it is rebuilt
        return exc_types.ExecutionError(
            f"Could not deserialize remote exception due to local error: {type(local).__name__}: {local}\n"
            f"The remote error was: {failure.text}\n\nRemote traceback:\n{failure.trace}"
        )
    return _with_frames(value, failure)


def _with_frames(exc: BaseException, failure: Failure) -> BaseException:
    if not failure.frames:
        return exc
    try:
        return rebuild(exc, failure.frames, failure.where)
    except Exception:  # noqa: BLE001 - a traceback is worth less than the exception itself
        return exc


@dataclass(slots=True)
class Reply:
    """What a container says of a bundle: outcomes of the positions `start` up to `stop`, the rest untouched unless it was sealed away.

    Attributes:
        start, stop: positions within the bundle that this reply answers.
        sealed: the bundle was sealed before: what is outside start..stop went another way.
        refused: nothing was run; why ("epoch", "draining").
        failures: position -> failure, among start..stop; the others have values.
        elapsed_s: time in user code.
        kind: of the body, `v` or `V`.
        more: for streams: True while the generator has more to give.
        epoch: the container's, so that a refused sender knows it.
    """

    start: int
    stop: int
    sealed: bool
    refused: str
    failures: dict[int, Failure] | None
    elapsed_s: float
    kind: str
    more: bool = False
    epoch: int = 0


def encode_reply(reply: Reply, items: Sequence[Any]) -> bytes:
    """Join a reply and its values: raw ones for the joint kind, else each value's own pickle."""
    failures = {pos: f.pack() for pos, f in reply.failures.items()} if reply.failures else None
    joint = reply.kind == JOINT_VALUE
    lengths = None if joint else [len(item) for item in items]
    top = pickle.dumps(
        (
            reply.start,
            reply.stop,
            reply.sealed,
            reply.refused,
            failures,
            reply.elapsed_s,
            reply.kind,
            reply.more,
            reply.epoch,
            lengths,
        ),
        5,
    )
    if not items:
        return top
    if joint:
        return top + pickle.dumps(items if type(items) is list else list(items), 5)
    return b"".join((top, *items))


def decode_reply(raw: Any) -> tuple[Reply, Body]:
    """A reply as an engine hands it over: bytes, or a list of bytes and buffers."""
    blob, buffers = (raw[0], raw[1:]) if isinstance(raw, list | tuple) else (raw, ())
    file = io.BytesIO(blob)
    start, stop, sealed, refused, failures, elapsed, kind, more, epoch, lengths = pickle.load(file)
    unpacked = {pos: Failure(*f) for pos, f in failures.items()} if failures else None
    reply = Reply(start, stop, sealed, refused, unpacked, elapsed, kind, more, epoch)
    return reply, Body(memoryview(blob)[file.tell() :], lengths, buffers)


def dumps(value: Any) -> bytes:
    """One value on its own, without a kept pickler."""
    data: bytes = cloudpickle.dumps(value, protocol=5)
    return data


def single_reply(blob: bytes) -> bytes:
    """One encoded value as a reply of its own."""
    return encode_reply(Reply(0, 1, False, "", None, 0.0, EACH_VALUE), (blob,))


class Undecodable:
    """Stands in for a result that could not be unpickled here."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


def decode_values(reply: Reply, body: Body) -> tuple[list[Any], bool]:
    """Values of `start` up to `stop` in order, a `Failure` where one failed, an `Undecodable` where it cannot be rebuilt here.

    Returns:
        (values, True if all of them are values).
    """
    failures = reply.failures
    if not failures and body.joint is not None:
        return body.joint, True
    values: list[Any] = []
    clean = not failures
    at = 0
    for pos in range(reply.start, reply.stop):
        if failures and pos in failures:
            values.append(failures[pos])
            continue
        try:
            values.append(body[at])
        except Exception as error:  # noqa: BLE001 - the user's classes run here
            values.append(Undecodable(explain_undecodable(error)))
            clean = False
        at += 1
    return values, clean


def split_reply(reply: Reply, body: Body) -> list[tuple[int, tuple[Any, ...] | None, bytes | None]]:
    """(position, packed failure, encoded value) of every outcome, values left encoded: for whoever only passes them on."""
    out: list[tuple[int, tuple[Any, ...] | None, bytes | None]] = []
    at = 0
    for pos in range(reply.start, reply.stop):
        if reply.failures and pos in reply.failures:
            out.append((pos, reply.failures[pos].pack(), None))
        else:
            out.append((pos, None, body.raw(at)))
            at += 1
    return out


def explain_undecodable(error: Exception) -> Exception:
    """A `DeserializationError` that names what is missing here."""
    if isinstance(error, ModuleNotFoundError):
        why = f"module {error.name!r} is not installed here; install it locally, or return plain values"
    elif isinstance(error, AttributeError | ImportError):
        why = f"{error}; the class or function must be importable here too"
    else:
        why = f"{type(error).__name__}: {error}"
    wrapped = exc_types.DeserializationError(f"The result could not be deserialized in this process: {why}")
    wrapped.__cause__ = error
    return wrapped


def raise_value(value: Any) -> Any:
    """Give a decoded value to the user: raise what stands for an error, return everything else."""
    if type(value) is Failure:
        raise decode_failure(value)
    if type(value) is Undecodable:
        raise value.error
    return value


def take_lost(reply: Reply) -> bool:
    """Take the last outcome out of a reply if its container has given that input up although nobody wanted it to; True if so."""
    last = (reply.failures or {}).get(reply.stop - 1)
    if last is None or last.kind != LOST:
        return False
    assert reply.failures is not None
    del reply.failures[reply.stop - 1]
    reply.stop -= 1
    return True
