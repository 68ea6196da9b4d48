"""`raymodal secret`: named secrets, as `modal.Secret.from_name` finds them. Values go in and never come out."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from raymodal.exception import InvalidError

app = typer.Typer(
    name="secret",
    help="Keep named secrets, encrypted below RAYMODAL_HOME.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_SEEN = (
    "KEY=VALUE can be seen by whoever lists this machine's processes, and stays in the shell's history. KEY=- asks for the "
    "value without showing it, or reads it from standard input: all of it for one key, a line for each of several. "
    "--from-dotenv and --from-json read files."
)
_Env = Annotated[str | None, typer.Option("--env", "-e", help="Environment: secrets of another one are apart.")]
_KeyValues = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")]
_Dotenv = Annotated[Path | None, typer.Option("--from-dotenv", help="A .env file with variables.")]
_Json = Annotated[Path | None, typer.Option("--from-json", help="A JSON file: an object of strings.")]
_UsageError: Any = typer.BadParameter.__mro__[1]  # as in `cli.main`


@app.command(no_args_is_help=True, epilog=_SEEN)
def create(
    secret_name: str,
    keyvalues: _KeyValues = None,
    env: _Env = None,
    from_dotenv: _Dotenv = None,
    from_json: _Json = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the secret if it exists.")] = False,
) -> Callable[[], int]:
    """Create a secret."""
    values = _values(keyvalues or [], from_dotenv, from_json)
    return lambda: _create(secret_name, values, env, "replace" if force else "fail")


@app.command(no_args_is_help=True, epilog=_SEEN)
def update(
    secret_name: str,
    keyvalues: _KeyValues = None,
    env: _Env = None,
    from_dotenv: _Dotenv = None,
    from_json: _Json = None,
) -> Callable[[], int]:
    """Add and change variables of a secret; the others stay."""
    values = _values(keyvalues or [], from_dotenv, from_json)
    return lambda: _update(secret_name, values, env)


@app.command("list")
def list_(
    env: _Env = None, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> Callable[[], int]:
    """List secrets, newest first."""
    return lambda: _list(env, json)


@app.command(no_args_is_help=True)
def delete(
    name: str,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="No error if there is none.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    env: _Env = None,
) -> Callable[[], int]:
    """Delete a secret, for good."""
    return lambda: _delete(name, allow_missing, yes, env)


def _create(name: str, values: dict[str, str], env: str | None, if_exists: Literal["fail", "replace"]) -> int:
    from raymodal.secret import keep

    keep(name, values, env, if_exists)
    print(f"Secret {name!r} has {_listed(values)}. To use it:\n")
    print(f'    @app.function(secrets=[modal.Secret.from_name("{name}")])')
    return 0


def _update(name: str, values: dict[str, str], env: str | None) -> int:
    from raymodal.secret import Secret

    Secret.from_name(name, environment_name=env).update(values)
    print(f"Secret {name!r}: set {_listed(values)}.")
    return 0


def _list(env: str | None, as_json: bool) -> int:
    from raymodal._stored import local_time
    from raymodal.secret import listed

    rows = [
        {
            "name": found.name,
            "created_at": local_time(found.created_at).isoformat(" ", "seconds"),
            "created_by": found.created_by,
            "last_used_at": "-"
            if found.last_used_at is None
            else local_time(found.last_used_at).isoformat(" ", "seconds"),
        }
        for found in listed(env)
    ]
    if as_json:
        print(jsonlib.dumps(rows, indent=2))
    elif not rows:
        print("There are no secrets. Create one with `raymodal secret create NAME KEY=VALUE`.")
    else:
        width = max(len(str(row["name"])) for row in rows)
        for row in rows:
            used = "never used" if row["last_used_at"] == "-" else f"last used {row['last_used_at']}"
            print(
                f"{row['name']:{width}}  created {row['created_at']} by {row['created_by'] or 'an unknown user'}, {used}"
            )
    return 0


def _delete(name: str, allow_missing: bool, yes: bool, env: str | None) -> int:
    from raymodal.secret import Secret

    if not yes:
        if not sys.stdin.isatty():
            raise InvalidError(f"Deleting secret {name!r} for good needs a terminal to ask, or --yes (-y)")
        typer.confirm(f"Delete secret {name!r} for good?", default=False, abort=True)
    Secret.objects.delete(name, allow_missing=allow_missing, environment_name=env)
    return 0


def _values(keyvalues: list[str], from_dotenv: Path | None, from_json: Path | None) -> dict[str, str]:
    """The variables that were given; later ways win. What is wrong is named without what may be a value."""
    values: dict[str, Any] = {}
    for number, given in enumerate(keyvalues, 1):
        key, is_pair, value = given.partition("=")
        if not is_pair:
            raise _UsageError(
                f"Item {number} after the name is not of the form KEY=VALUE; for a hidden prompt write KEY=-"
            )
        values[key] = value
    asked = [key for key, value in values.items() if value == "-"]
    if from_dotenv is not None:
        values.update(_dotenv(from_dotenv))
    if from_json is not None:
        values.update(_json(from_json))
    if not values:
        raise _UsageError("A secret needs at least one variable: KEY=VALUE, --from-dotenv or --from-json")
    for key, value in values.items():
        if not key:
            raise _UsageError("A variable has an empty name")
        if not isinstance(value, str):
            raise _UsageError(f"The value of {key!r} is no string; give a text, in quotes where it is JSON")
    return {**values, **_ask(asked)} if asked else values


def _ask(keys: list[str]) -> dict[str, str]:
    if sys.stdin.isatty():
        return {key: typer.prompt(f"Value of {key}", hide_input=True, prompt_suffix=": ") for key in keys}
    text = sys.stdin.read()
    if len(keys) == 1:
        return {keys[0]: text.removesuffix("\n").removesuffix("\r")}
    lines = text.splitlines()
    if len(lines) != len(keys):
        raise _UsageError(f"Standard input has {len(lines)} lines for the values of {_listed(keys)}; give one for each")
    return dict(zip(keys, lines, strict=True))


def _dotenv(path: Path) -> Mapping[str, Any]:
    from raymodal.secret import read_dotenv

    if not path.is_file():
        raise _UsageError(f"There is no file {str(path)!r} for --from-dotenv")
    try:
        return read_dotenv(path)
    except (OSError, UnicodeDecodeError) as error:
        raise _UsageError(f"{str(path)!r} cannot be read: {_reason(error)}") from None


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = jsonlib.loads(path.read_text())
    except jsonlib.JSONDecodeError as error:
        raise _UsageError(
            f"{str(path)!r} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _UsageError(f"{str(path)!r} cannot be read: {_reason(error)}") from None
    if not isinstance(found, dict):
        raise _UsageError(f"{str(path)!r} holds no JSON object with the variables")
    return found


def _reason(error: OSError | UnicodeDecodeError) -> str:
    # The text of a UnicodeDecodeError has bytes of the file in it.
    return str(error.strerror) if isinstance(error, OSError) else "it is not UTF-8"


def _listed(keys: Any) -> str:
    return ", ".join(map(repr, keys))
