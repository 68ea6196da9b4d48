"""`raymodal app`: apps that run on this machine, and why their functions have as many containers as they have."""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Callable
from typing import Annotated

import typer

from raymodal.cli.not_yet import group
from raymodal.exception import InvalidError, NotFoundError

app = typer.Typer(
    name="app",
    cls=group(
        "app",
        ("dashboard", "history", "info", "logs", "promote", "rollback", "rollover", "stats", "stop"),
        "it comes with deployed apps",
    ),
    help="Look at apps that run on this machine.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command("list")
def list_(json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> Callable[[], int]:
    """List apps that run on this machine for this user."""
    return lambda: _list(json)


def _list(as_json: bool) -> int:
    from raymodal import config
    from raymodal.engine import control

    apps = control.running_apps(config.settings().home)
    rows = [
        {
            "app_id": running.app_id,
            "description": running.name,
            "state": "ephemeral",
            "pid": running.pid,
            "since": since,
        }
        for running in apps
        for since in [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(running.since))]
    ]
    if as_json:
        print(jsonlib.dumps(rows, indent=2))
    elif not rows:
        print("No app runs here. Start one with `raymodal run`.")
    else:
        for row in rows:
            print(f"{row['app_id']}  {row['description']}  since {row['since']}, process {row['pid']}")
    return 0


@app.command()
def why(
    function: Annotated[
        str, typer.Argument(metavar="APP::FUNCTION", help="An app's name or id, and a function, class or object of it.")
    ],
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> Callable[[], int]:
    """Say why a function has as many containers as it has: the autoscaler's last decisions, and what limited each.

    Without ::FUNCTION all functions of the app are shown.
    """
    return lambda: _why(function, json)


def _why(ref: str, as_json: bool) -> int:
    from raymodal import config
    from raymodal.engine import control
    from raymodal.types import ScalingReport

    app_name, _, name = ref.partition("::")
    if not app_name:
        raise InvalidError(f"{ref!r} names no app; write APP::FUNCTION. `raymodal app list` shows what runs")
    running = control.find(config.settings().home, app_name)
    reports = [control.ask(running, "why", tag) for tag in pools_of(control.ask(running, "pool_tags"), name, app_name)]
    if as_json:
        print(jsonlib.dumps(reports, indent=2))
    else:
        print("\n\n".join(str(ScalingReport.of(report)) for report in reports))
    return 0


def pools_of(tags: list[str], name: str, app_name: str) -> list[str]:
    """Which of an app's pools a name means: a function, a class with all its objects, one object, or a method.

    Raises:
        NotFoundError: none.
    """
    cls = name.removesuffix(".*").partition("(")[0].partition(".")[0]
    found = [tag for tag in tags if tag == name or not name] or [
        tag for tag in tags if tag.endswith(".*") and tag.removesuffix(".*").partition("(")[0] == cls
    ]
    if not found:
        known = ", ".join(map(repr, tags[:20])) or "none that has been used"
        raise NotFoundError(f"App {app_name!r} has no function {name!r}; it has {known}")
    return found
