"""`Cron` and `Period`: when a deployed function runs by itself."""

from __future__ import annotations

from raymodal.spec.function import ScheduleSpec


class Schedule:
    """Base of `Cron` and `Period`."""

    def __init__(self, proto_message: ScheduleSpec) -> None:
        self._spec = proto_message


class Cron(Schedule):
    """Five cron fields, in a time zone.

    Example:
        >>> Cron("5 4 * * *", timezone="Europe/Berlin")
        Cron('5 4 * * *', timezone='Europe/Berlin')
    """

    def __init__(self, cron_string: str, timezone: str = "UTC") -> None:
        super().__init__(ScheduleSpec(kind="cron", cron_string=cron_string, timezone=timezone))

    def __repr__(self) -> str:
        return f"Cron({self._spec.cron_string!r}, timezone={self._spec.timezone!r})"


class Period(Schedule):
    """An interval, counted from the deployment.

    Example:
        >>> Period(hours=4, minutes=15)
        Period(hours=4, minutes=15)
    """

    def __init__(
        self,
        *,
        years: int = 0,
        months: int = 0,
        weeks: int = 0,
        days: int = 0,
        hours: int = 0,
        minutes: int = 0,
        seconds: float = 0,
    ) -> None:
        """Keep the interval.

        Raises:
            TypeError: a part other than `seconds` is not an integer.
        """
        whole = {"years": years, "months": months, "weeks": weeks, "days": days, "hours": hours, "minutes": minutes}
        for name, value in whole.items():
            if not isinstance(value, int):
                raise TypeError(f"Period({name}={value!r}): only seconds may be a fraction; use smaller units")
        if not isinstance(seconds, (int, float)):
            raise TypeError(f"Period(seconds={seconds!r}) is not a number")
        super().__init__(ScheduleSpec(kind="period", seconds=seconds, **whole))

    def __repr__(self) -> str:
        names = ("years", "months", "weeks", "days", "hours", "minutes", "seconds")
        parts = [f"{name}={value:g}" for name in names if (value := getattr(self._spec, name))]
        return f"Period({', '.join(parts)})"
