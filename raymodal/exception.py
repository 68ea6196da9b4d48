"""The errors that user code may catch.

```text
BaseException
  InputCancellation                     raised inside user code when its input is cancelled; not an Exception on purpose
Exception
  Error                                 also raymodal.Error
    AlreadyExistsError  AuthError  DataLossError  InternalError  NotFoundError  PermissionDeniedError
    ResourceExhaustedError  ServiceError  UnimplementedError
    InvalidError
      ConflictError
        experimental.IdempotencyConflict
    RemoteError
      ImageBuildError
    TimeoutError                        not the builtin
      FunctionTimeoutError  SandboxTimeoutError  ExecTimeoutError  MountUploadTimeoutError
      VolumeUploadTimeoutError  InteractiveTimeoutError  OutputExpiredError
    ConnectionError                     not the builtin
    ExecutionError  SerializationError  DeserializationError  RequestSizeError  InternalFailure  ClientClosed
    VersionError  SandboxTerminatedError  SnapshotCreationError  LogsFetchError  WorkspaceManagementError
    SandboxFilesystemError
      SandboxFilesystemNotFoundError  SandboxFilesystemDirectoryNotEmptyError
      SandboxFilesystemIsADirectoryError  SandboxFilesystemNotADirectoryError
      SandboxFilesystemPermissionError  SandboxFilesystemFileTooLargeError
      SandboxFilesystemPathAlreadyExistsError
  ModuleNotMountable  UserCodeException
UserWarning
  DeprecationError  ServerWarning  AsyncUsageWarning  InternalAPIWarning
```

Two shadows to know: `TimeoutError` and `ConnectionError` here do not inherit from the builtins of the same name, and
`FunctionCall.get(timeout=...)` raises the *builtin* `TimeoutError`.

A user's exception raised in a container is raised again as itself; only what has no user exception behind it
(a lost container, a cancelled input) arrives as one of these.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
from typing import Any


class Error(Exception):
    """Base of every error that raymodal itself raises.

    Example:
        >>> issubclass(NotFoundError, Error)
        True
    """


class AlreadyExistsError(Error):
    """Something of this name is there already."""


class AuthError(Error):
    """The credentials are missing or not accepted."""


class DataLossError(Error):
    """Stored data cannot be read back."""


class InternalError(Error):
    """raymodal broke one of its own rules; please report it."""


class NotFoundError(Error):
    """The name or id refers to nothing."""


class PermissionDeniedError(Error):
    """The caller may not do this."""


class ResourceExhaustedError(Error):
    """A limit is reached; the message names the limit, the present figure and the setting."""


class ServiceError(Error):
    """The cluster could not answer; trying again may help."""


class UnimplementedError(Error):
    """Part of Modal's surface that raymodal does not carry out; the message says why and what to use instead."""


class InvalidError(Error):
    """The program asks for something that cannot be right."""


class ConflictError(InvalidError):
    """The thing changed, or is in a state that does not allow this."""


class RemoteError(Error):
    """Something failed in the cluster, with no exception of the user's code behind it."""


class ImageBuildError(RemoteError):
    """An image could not be built."""

    def __init__(self, message: str, image_id: str) -> None:
        super().__init__(message)
        self.image_id = image_id

    def __reduce__(self) -> tuple[Any, ...]:
        # The default passes `args` only, and the id would be missing on the other side.
        return type(self), (*self.args, self.image_id)


class TimeoutError(Error):
    """Base of raymodal's own time-outs; not the builtin of the same name."""


class FunctionTimeoutError(TimeoutError):
    """An input ran longer than its function's `timeout`."""


class SandboxTimeoutError(TimeoutError):
    """A sandbox lived or waited longer than allowed."""


class ExecTimeoutError(TimeoutError):
    """A command in a container ran longer than its `timeout`."""


class MountUploadTimeoutError(TimeoutError):
    """Local files took too long to reach the cluster."""


class VolumeUploadTimeoutError(TimeoutError):
    """Files took too long to reach a volume."""


class InteractiveTimeoutError(TimeoutError):
    """An interactive session did not start in time."""


class OutputExpiredError(TimeoutError):
    """The result of a call is no longer kept."""


class ConnectionError(Error):
    """The cluster cannot be reached; not the builtin of the same name."""


class ExecutionError(Error):
    """The thing cannot be done in the present state, for example calling a function whose app is not running."""


class SerializationError(Error):
    """A value or exception cannot be pickled."""


class DeserializationError(Error):
    """A value arrived that cannot be unpickled here; the message names what is missing."""


class RequestSizeError(Error):
    """A value is larger than the store takes."""


class InternalFailure(Error):
    """A container or node was lost more often than an input is run again for."""


class ClientClosed(Error):
    """The client, or the handle of a detached sandbox, is closed."""


class VersionError(Error):
    """The two sides are of versions that do not speak to each other."""


class SandboxTerminatedError(Error):
    """The sandbox was terminated from outside."""


class SnapshotCreationError(Error):
    """A snapshot could not be taken."""


class LogsFetchError(Error):
    """Logs could not be read."""


class WorkspaceManagementError(Error):
    """A change to the workspace was refused."""


class SandboxFilesystemError(Error):
    """Base of the errors of `sandbox.filesystem`."""


class SandboxFilesystemNotFoundError(SandboxFilesystemError):
    """There is no such file."""


class SandboxFilesystemDirectoryNotEmptyError(SandboxFilesystemError):
    """The directory has content and `recursive` was not asked for."""


class SandboxFilesystemIsADirectoryError(SandboxFilesystemError):
    """A file was expected."""


class SandboxFilesystemNotADirectoryError(SandboxFilesystemError):
    """A directory was expected."""


class SandboxFilesystemPermissionError(SandboxFilesystemError):
    """The file may not be touched."""


class SandboxFilesystemFileTooLargeError(SandboxFilesystemError):
    """The file is larger than one call carries."""


class SandboxFilesystemPathAlreadyExistsError(SandboxFilesystemError):
    """The path is taken."""


class ModuleNotMountable(Exception):
    """A module named in `add_local_python_source` cannot be found here."""


class UserCodeException(Exception):
    """What older Modal releases wrapped returned exceptions in; kept so that `except` clauses still import."""

    def __init__(self, exc: BaseException) -> None:
        super().__init__(exc)
        self.exc = exc


class InputCancellation(BaseException):
    """Raised in user code when its input is cancelled.

    A `BaseException`, so that `except Exception` around user code does not swallow a cancellation.
    """


class DeprecationError(UserWarning):
    """Category of warnings about old names; raised instead of warned where Modal 1.6.4 raises and `RAYMODAL_STRICT=1` is set."""


class ServerWarning(UserWarning):
    """A warning from the cluster."""


class AsyncUsageWarning(UserWarning):
    """A blocking call was made on a running event loop; the message shows the `.aio` spelling."""


class InternalAPIWarning(UserWarning):
    """Something that is not meant for programs was used."""


def simulate_preemption(wait_seconds: int, jitter_seconds: int = 0) -> None:
    """Interrupt this container after a while, the way a preempted machine would.

    The main thread gets a `KeyboardInterrupt` after `wait_seconds` plus up to `jitter_seconds`; thirty seconds later
    the process is killed.

    Args:
        wait_seconds: how long to run before the interruption.
        jitter_seconds: upper bound of a random extra wait.

    Raises:
        ValueError: `wait_seconds` is not positive.
    """
    if wait_seconds <= 0:
        raise ValueError("simulate_preemption needs wait_seconds greater than 0")
    first = wait_seconds + random.randrange(0, jitter_seconds) if jitter_seconds else wait_seconds

    def kill() -> None:
        signal.raise_signal(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)

    def interrupt() -> None:
        timer = threading.Timer(30, kill)
        timer.daemon = True
        timer.start()
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(first, interrupt)
    timer.daemon = True
    timer.start()
