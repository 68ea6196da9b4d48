"""`raymodal cluster`: keep a Ray on this machine between runs, end it, look at one; start a node for a cluster of yours.

Nothing here imports Ray before it has to: `--help` is there at once.
"""

from __future__ import annotations

import enum
import json as jsonlib
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from raymodal.exception import InvalidError

app = typer.Typer(
    name="cluster",
    help="Keep a Ray on this machine between runs, end it, look at it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Exit(enum.IntEnum):
    """Exit codes beside 0, 1 (an error) and 2 (wrong usage)."""

    NO_CLUSTER = 3


@app.command()
def up(
    dashboard: Annotated[bool, typer.Option("--dashboard", help="With Ray's dashboard; needs ray[default].")] = False,
    num_cpus: Annotated[
        int | None, typer.Option("--num-cpus", min=0, help="CPUs it has to give; by default the machine's.")
    ] = None,
    num_gpus: Annotated[
        int | None, typer.Option("--num-gpus", min=0, help="GPUs it has to give; by default the machine's.")
    ] = None,
    memory: Annotated[
        int | None, typer.Option("--memory", min=1, metavar="MIB", help="Memory that functions may ask for.")
    ] = None,
    object_store_memory: Annotated[
        int | None, typer.Option("--object-store-memory", min=76, metavar="MIB", help="Shared memory for large values.")
    ] = None,
) -> Callable[[], int]:
    """Start a Ray on this machine that stays; programs attach to it by themselves.

    It listens on loopback only, asks for Ray's token, and lives until `raymodal cluster down`, whatever becomes of this
    terminal. Its containers see the environment variables of this command.
    """
    mib = 1 << 20
    options = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "memory": memory and memory * mib,
        "object_store_memory": object_store_memory and object_store_memory * mib,
    }
    return lambda: _up({name: value for name, value in options.items() if value is not None}, dashboard)


def _up(options: dict[str, Any], dashboard: bool) -> int:
    from raymodal import config
    from raymodal.engine.ray.cluster import kept

    settings = config.override(dashboard=True) if dashboard else config.settings()
    done = kept.up(settings, options)
    for note in done.notes:
        _say(note)
    record = done.record
    if not done.is_new:
        asked = [*options, *(["dashboard"] if dashboard and not record.dashboard else [])]
        print(f"A cluster runs already: {record.address}, since {record.since}.")
        if asked:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
            _say(f"It stays as it was started, so {names} had no effect: `raymodal cluster down` first.")
            return 1
        return 0
    for note in kept.test_fork(settings, record):
        _say(note)
    print(f"Ray {record.ray} runs at {record.address} until `raymodal cluster down`.")
    if record.dashboard:
        print(f"Dashboard: {_url(record.dashboard)} (its token: {record.token_path})")
    print("Programs attach to it by themselves: `raymodal run`, `app.run()`. Look at it: `raymodal cluster status`.")
    return 0


@app.command()
def down() -> Callable[[], int]:
    """End the Ray that `up` keeps, with all that runs on it."""
    return _down


def _down() -> int:
    from raymodal.config import settings
    from raymodal.engine.ray.cluster import kept

    done = kept.down(settings().home)
    if done.record is None and not done.was_dead:
        print("No cluster is kept, so there is nothing to end.")
    elif done.was_dead:
        print(f"The kept cluster{kept.of(done.record)} had died; what it left was removed.")
    else:
        assert done.record is not None
        print(f"Ended the cluster at {done.record.address}, up since {done.record.since}: {done.processes} processes.")
    return 0


@app.command()
def status(
    address: Annotated[
        str | None, typer.Option("--address", help="Another cluster than the kept one; RAY_ADDRESS is heeded too.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> Callable[[], int]:
    """Show the kept cluster, or the one at --address: nodes, how workers start, bytecode, what to type for Ray's own tools.

    Exits with 3 where there is no cluster.
    """
    return lambda: _status(address, json)


def _status(address: str | None, as_json: bool) -> int:
    from raymodal.config import settings
    from raymodal.engine.ray.cluster.look import look

    now = settings()
    view = look(now, address or now.address or now.ray_address)
    for note in view.notes:
        _say(note)
    if as_json:
        print(jsonlib.dumps(view.as_dict(), indent=1))
    else:
        print("\n".join(view.lines()))
    return 0 if view.is_there else Exit.NO_CLUSTER


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def node(
    args: Annotated[list[str] | None, typer.Argument(metavar="-- [ARGUMENTS OF ray start]", show_default=False)] = None,
) -> Callable[[], int]:
    """Run `ray start` so that its workers are forked, as those of a Ray that raymodal starts.

    For the nodes of a cluster of yours, in the place of `ray start`; everything behind -- is Ray's:

        raymodal cluster node -- --head --port=6379

    Where a node cannot do it, one line says why, and Ray starts as ever.
    """
    if not args:
        raise InvalidError(
            "`raymodal cluster node` needs the arguments of `ray start`, such as `raymodal cluster node -- --head`."
        )
    return lambda: _node(args)


def _node(arguments: list[str]) -> int:
    from raymodal.engine.ray.cluster.ray_start import run

    return run(arguments, _say)


def _url(text: str) -> str:
    return text if "://" in text else f"http://{text}"


def _say(text: str) -> None:
    print(f"raymodal: {text}", file=sys.stderr, flush=True)
