"""`Probe`: how to see that a sandbox is ready."""

from __future__ import annotations

from dataclasses import dataclass

from raymodal.exception import InvalidError


@dataclass(frozen=True)
class Probe:
    """How to see that a sandbox is ready: a port that answers, or a command that succeeds.

    Example:
        >>> Probe.with_tcp(8080)
        Probe(tcp_port=8080, exec_argv=None, interval_ms=100)
    """

    tcp_port: int | None = None
    exec_argv: tuple[str, ...] | None = None
    interval_ms: int = 100

    @classmethod
    def with_tcp(cls, port: int, *, interval_ms: int = 100) -> Probe:
        """Ready once `port` takes connections.

        Raises:
            InvalidError: not a port.
        """
        if not isinstance(port, int) or isinstance(port, bool):
            raise InvalidError(f"Probe.with_tcp needs an integer port, not {port!r}")
        if not 1 <= port <= 65535:
            raise InvalidError(f"Probe.with_tcp needs a port from 1 to 65535, not {port}")
        return cls(tcp_port=port, interval_ms=_checked_interval(interval_ms))

    @classmethod
    def with_exec(cls, *argv: str, interval_ms: int = 100) -> Probe:
        """Ready once the command ends with 0.

        Raises:
            InvalidError: no command.
        """
        if not argv or not all(isinstance(part, str) for part in argv):
            raise InvalidError("Probe.with_exec needs a command of at least one string")
        return cls(exec_argv=argv, interval_ms=_checked_interval(interval_ms))


def _checked_interval(interval_ms: int) -> int:
    if not isinstance(interval_ms, int) or interval_ms <= 0:
        raise InvalidError(f"interval_ms={interval_ms!r} of a Probe must be a positive integer")
    return interval_ms
