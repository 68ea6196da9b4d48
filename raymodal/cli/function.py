"""`raymodal function autoscaler`: read and change how a function of a running app scales, from another terminal."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable
from typing import Annotated, Any

import typer

from raymodal.cli.not_yet import group
from raymodal.exception import InvalidError

app = typer.Typer(
    name="function",
    cls=group("function", ("calls", "info", "logs", "metrics", "stats", "variants"), "it comes with deployed apps"),
    help="Look at and change functions of apps that run on this machine.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
autoscaler = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(autoscaler, name="autoscaler", help="How many containers a function has.")

_Ref = Annotated[str, typer.Argument(metavar="APP::FUNCTION", help="An app's name or id, and one of its functions.")]
_Count = Annotated[int | None, typer.Option()]


@app.callback()
def root() -> None:
    """Look at and change functions of apps that run on this machine."""


@autoscaler.command()
def settings(
    function_identifier: _Ref, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> Callable[[], int]:
    """Show the values in force."""
    return lambda: _show(_ask(function_identifier, "rules"), json)


@autoscaler.command()
def update(
    function_identifier: _Ref,
    max_containers: _Count = None,
    min_containers: _Count = None,
    buffer_containers: _Count = None,
    scaledown_window: _Count = None,
) -> Callable[[], int]:
    """Change values while the app runs; those that are not named stay. They hold until the run ends."""
    given = {
        "min_containers": min_containers,
        "max_containers": max_containers,
        "buffer_containers": buffer_containers,
        "scaledown_window": scaledown_window,
    }
    return lambda: _update(function_identifier, {name: value for name, value in given.items() if value is not None})


def _update(ref: str, given: dict[str, int]) -> int:
    from raymodal.functions import checked_rules

    if not given:
        raise InvalidError("nothing to change: name at least one of --min-containers, --max-containers, ...")
    return _show(_ask(ref, "set_rules", checked_rules(given)), False)


def _ask(ref: str, method: str, *args: Any) -> dict[str, Any]:
    from raymodal import config
    from raymodal.cli.app import pools_of
    from raymodal.engine import control

    app_name, _, name = ref.partition("::")
    if not app_name or not name:
        raise InvalidError(f"{ref!r} must be APP::FUNCTION. `raymodal app list` shows what runs")
    running = control.find(config.settings().home, app_name)
    tags = pools_of(control.ask(running, "pool_tags"), name, app_name)
    if len(tags) > 1:
        raise InvalidError(
            f"{name!r} has {len(tags)} objects, each with containers of its own; say which: {', '.join(tags)}"
        )
    answer: dict[str, Any] = control.ask(running, method, tags[0], *args)
    return answer


def _show(rules: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print(jsonlib.dumps(rules, indent=2))
    else:
        for name, value in rules.items():
            print(f"{name}: {'no limit' if value is None else f'{value:g}'}")
    return 0
