"""From a function's annotations to command-line options, and from command-line tokens to arguments.

`read_signature` says which options a function has, or why it can have none; it needs neither typer nor a running app.
`parse` reads tokens with typer. An option that is not given is not passed on, so the function's own default applies,
whatever its type.
"""

from __future__ import annotations

import datetime
import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union

from raymodal.exception import ExecutionError, InvalidError
from raymodal.spec.cls import ParameterSpec

_METAVARS = {
    str: "TEXT",
    int: "INTEGER",
    float: "FLOAT",
    bool: None,
    datetime.datetime: "[%Y-%m-%d|%Y-%m-%dT%H:%M:%S|%Y-%m-%d %H:%M:%S]",
    None: "ANY",
}
_CONVERTED = tuple(kind for kind in _METAVARS if kind is not None)


class UnparseableParameter(InvalidError):
    """A parameter cannot be given on a command line."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One option.

    Attributes:
        name: its Python name.
        type: what a token is converted to; None leaves it as it is (a parameter without annotation).
        choices: what may be written, and the value that each stands for.
        is_required: it has no default.
        default: for the help text.
        is_positional: the function takes it by position only.
    """

    name: str
    type: Any = None
    choices: Mapping[str, Any] | None = None
    is_required: bool = True
    default: Any = None
    is_positional: bool = False
    help: str = ""

    @property
    def option(self) -> str:
        """As it is written on the command line."""
        dashed = self.name.replace("_", "-")
        return f"--{dashed}/--no-{dashed}" if self.type is bool else f"--{dashed}"


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes from the command line; `takes_tokens`: its lone `*args` gets the tokens as they are."""

    parameters: tuple[Parameter, ...] = ()
    takes_tokens: bool = False
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What to call a function with."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------ annotations


def read_signature(function: Callable[..., Any], *, is_method: bool = False) -> Signature:
    """The options of `function`.

    Args:
        is_method: the first parameter is `self`.

    Raises:
        UnparseableParameter: an annotation has no command-line form.
        InvalidError: `*args` beside other parameters.
        ExecutionError: an annotation written as a string cannot be evaluated.

    Example:
        >>> def train(steps: int, *, dry_run: bool = False): ...
        >>> [parameter.option for parameter in read_signature(train).parameters]
        ['--steps', '--dry-run/--no-dry-run']
    """
    declared = list(inspect.signature(function).parameters.values())[1 if is_method else 0 :]
    summary, helps = read_docstring(inspect.getdoc(function) or "")
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in declared):
        if len(declared) > 1:
            raise InvalidError(
                f"{_name_of(function)} has *{_var_name(declared)} beside other parameters, so it is not clear which "
                "command-line tokens belong to which. Keep one of the two."
            )
        return Signature(takes_tokens=True, summary=summary)
    hints = _hints_of(function)
    parameters = tuple(read_parameter(p, hints.get(p.name, p.empty), helps.get(p.name, "")) for p in declared)
    return Signature(parameters, summary=summary)


def read_parameter(declared: inspect.Parameter, annotation: Any, help: str = "") -> Parameter:
    """One parameter's option.

    Raises:
        UnparseableParameter: names the parameter, its annotation, and what can be written instead.
    """
    kind, choices = _form_of(declared.name, annotation)
    return Parameter(
        declared.name,
        kind,
        choices,
        is_required=declared.default is declared.empty,
        default=None if declared.default is declared.empty else declared.default,
        is_positional=declared.kind is declared.POSITIONAL_ONLY,
        help=help,
    )


def read_class_parameter(spec: ParameterSpec) -> Parameter:
    """The option of one `modal.parameter()` of a class.

    Raises:
        UnparseableParameter: it takes bytes.
    """
    kind = {"str": str, "int": int, "bool": bool}.get(spec.type)
    if kind is None:
        raise _unparseable(spec.name, bytes, "bytes cannot be written")
    return Parameter(spec.name, kind, is_required=not spec.has_default, default=spec.default)


def _form_of(name: str, annotation: Any) -> tuple[Any, Mapping[str, Any] | None]:
    """The type that tokens convert to, and the choices if there are only a few."""
    if annotation is inspect.Parameter.empty:
        return None, None
    bare = _without_none(annotation)
    if bare in _CONVERTED:
        return bare, None
    if typing.get_origin(bare) is Literal:
        values = typing.get_args(bare)
        if all(type(value) is str for value in values) or all(type(value) is int for value in values):
            return type(values[0]), {str(value): value for value in values}
        raise _unparseable(name, annotation, "a Literal has only strings or only whole numbers")
    if isinstance(bare, type) and issubclass(bare, enum.Enum) and len(bare):
        is_text = all(isinstance(member.value, str) for member in bare)
        return bare, {member.value if is_text else member.name: member for member in bare}
    raise _unparseable(
        name, annotation, "use str, int, float, bool, datetime.datetime, a Literal, an Enum or no annotation"
    )


def _without_none(annotation: Any) -> Any:
    """`T` of `Optional[T]`; anything else as it is."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        rest = [one for one in typing.get_args(annotation) if one is not type(None)]
        if len(rest) == 1:
            return rest[0]
    return annotation


def _unparseable(name: str, annotation: Any, way_out: str) -> UnparseableParameter:
    return UnparseableParameter(
        f"Parameter `{name}` has unparseable annotation: {annotation!r}. On a command line: {way_out}."
    )


def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception as exc:  # evaluates the user's strings: anything may come out
        raise ExecutionError(
            f"The annotations of {_name_of(function)} cannot be evaluated, so it has no command-line options: {exc}. "
            "Import the name at module level (not only under TYPE_CHECKING), or leave the annotation out."
        ) from exc


def _name_of(function: Callable[..., Any]) -> str:
    return f"`{getattr(function, '__qualname__', function)}`"


def _var_name(declared: Sequence[inspect.Parameter]) -> str:
    return next(parameter.name for parameter in declared if parameter.kind is parameter.VAR_POSITIONAL)


# -------------------------------------------------------------------------------------------------------- docstrings

_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Return|Raises|Yields|Examples?|Notes?):\s*$")
_ARGUMENT = re.compile(r"^(\s+)\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The part before the first section, and what an `Args:` section says of each parameter.

    Example:
        >>> read_docstring("Train.\\n\\nArgs:\\n    steps: how many\\n        there are\\n    lr (float): rate")
        ('Train.', {'steps': 'how many there are', 'lr': 'rate'})
    """
    summary: list[str] = []
    helps: dict[str, str] = {}
    section, name, indent = "", "", 0
    for line in text.splitlines():
        if heading := _SECTION.match(line):
            section, name = heading[1], ""
        elif not section:
            summary.append(line)
        elif section in ("Args", "Arguments", "Parameters"):
            depth = len(line) - len(line.lstrip())
            found = _ARGUMENT.match(line)
            if found and (not name or depth <= indent):
                name, indent = found[2], depth
                helps[name] = found[3].strip()
            elif name and line.strip():
                helps[name] = f"{helps[name]} {line.strip()}".strip()
    return "\n".join(summary).strip(), helps


# ----------------------------------------------------------------------------------------------------------- tokens


def parse(signature: Signature, tokens: Sequence[str], *, command: str) -> Arguments:
    """Read what stands behind the reference on the command line.

    Args:
        command: how the command line begins, for usage lines.

    Raises:
        SystemExit: after `--help` (0) or a usage error (2), with the text printed.
    """
    if signature.takes_tokens:
        own, *rest = split_tokens(tokens)
        if wants_help(tokens):
            _read(signature, ["--help"], command)
        return Arguments((*own, *(token for part in rest for token in part)))
    return _bind(signature, _read(signature, tokens, command))


def split_tokens(tokens: Sequence[str]) -> list[Sequence[str]]:
    """What stands before the first `--`, and what stands behind it, if there is one: that is the program's own."""
    at = tokens.index("--") if "--" in tokens else None
    return [tokens] if at is None else [tokens[:at], tokens[at + 1 :]]


def wants_help(tokens: Sequence[str]) -> bool:
    """Whether help is asked of us, not of the program."""
    return bool({"--help", "-h"} & set(split_tokens(tokens)[0]))


def parse_both(
    of_class: Signature, of_method: Signature, tokens: Sequence[str], *, command: str
) -> tuple[Arguments, Arguments]:
    """`parse` for a method: what to make the object with, and what to call its method with.

    Raises:
        InvalidError: the two cannot share one command line.
        SystemExit: as in `parse`.
    """
    if of_class.takes_tokens or (of_method.takes_tokens and of_class.parameters):
        raise InvalidError(
            "A class with parameters and a lone *args cannot share one command line. Name the parameters."
        )
    if of_method.takes_tokens:
        return Arguments(), parse(of_method, tokens, command=command)
    both = {parameter.name for parameter in of_class.parameters} & {
        parameter.name for parameter in of_method.parameters
    }
    if both:
        raise InvalidError(
            f"`{min(both)}` is a parameter of the class and of the method, so --{min(both).replace('_', '-')} would be "
            "ambiguous. Rename one of the two."
        )
    merged = Signature(of_class.parameters + of_method.parameters, summary=of_method.summary)
    given = _read(merged, tokens, command)
    return _bind(of_class, given), _bind(of_method, given)


def _bind(signature: Signature, given: Mapping[str, Any]) -> Arguments:
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for parameter in signature.parameters:
        if parameter.is_positional:
            args.append(given.get(parameter.name, parameter.default))
        elif parameter.name in given:
            kwargs[parameter.name] = given[parameter.name]
    return Arguments(tuple(args), kwargs)


def _read(signature: Signature, tokens: Sequence[str], command: str) -> dict[str, Any]:
    """The options that were given, converted."""
    import typer
    from typer.main import get_command

    read: list[dict[str, Any]] = []
    # Names of Python parameters can be anything that typer gives a meaning of its own, so they do not reach it.
    names = {f"option_{number}": parameter for number, parameter in enumerate(signature.parameters)}

    def take(**options: Any) -> None:
        given = [(names[key], value) for key, value in options.items() if value is not None]
        read.append({p.name: value if p.choices is None else p.choices[value] for p, value in given})

    declared = [
        inspect.Parameter(
            key,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if parameter.is_required else None,
            annotation=_typer_annotation(parameter),
        )
        for key, parameter in names.items()
    ]
    # typer reads a function's signature; this one is made up.
    take.__signature__ = inspect.Signature(declared)  # type: ignore[attr-defined]
    take.__annotations__ = {parameter.name: parameter.annotation for parameter in declared}

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    usage = "[ARGS]..." if signature.takes_tokens else "[OPTIONS]"
    app.command(
        help=signature.summary or None,
        options_metavar=usage,
        context_settings={"help_option_names": _help_names(signature)},
    )(take)
    try:
        # Standalone, so that typer prints help and usage errors in its own words and says how to end.
        get_command(app).main(list(tokens), prog_name=command, standalone_mode=True)
    except SystemExit:
        if not read:
            raise
    return read[0]


def _typer_annotation(parameter: Parameter) -> Any:
    import typer

    choices = parameter.choices
    kind = str if parameter.type is None or choices is not None else parameter.type
    metavar = _METAVARS.get(parameter.type)
    extra: dict[str, Any] = {}
    if choices is not None:
        metavar = f"[{'|'.join(choices)}]"
        extra["parser"] = _choice_parser(tuple(choices))
    has_default = not parameter.is_required and parameter.default is not None
    option = typer.Option(
        parameter.option,
        help=parameter.help or None,
        metavar=metavar,
        show_default=_shown(parameter.default) if has_default else False,
        **extra,
    )
    return Annotated[kind if parameter.is_required else kind | None, option]


def _choice_parser(choices: tuple[str, ...]) -> Callable[[str], str]:
    import typer

    def one_of(text: str) -> str:
        if text not in choices:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, choices))}.")
        return text

    return one_of


def _shown(default: Any) -> str:
    return str(default.value if isinstance(default, enum.Enum) else default)


def _help_names(signature: Signature) -> list[str]:
    taken = {parameter.option for parameter in signature.parameters}
    return [name for name in ("--help", "-h") if name not in taken]
