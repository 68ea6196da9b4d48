"""Command groups that know which of Modal's commands they do not have yet, so that these are refused with the reason instead of as a misspelling."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from raymodal.exception import UnimplementedError


def group(path: str, names: tuple[str, ...], reason: str) -> type[TyperGroup]:
    """A class for `typer.Typer(cls=...)`.

    Args:
        path: the group's own, such as "app".
        names: its commands that are not there yet.
        reason: what they come with.
    """

    class Group(TyperGroup):
        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name in names:
                raise UnimplementedError(
                    f"`raymodal {path} {cmd_name}` is not available yet: {reason}. See `raymodal {path} --help`."
                )
            return super().get_command(ctx, cmd_name)

    return Group
