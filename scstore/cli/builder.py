"""Commands made from public functions: options, help and checks come from the function's signature."""

import collections.abc
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from scstore.errors import OptionError, printable
from scstore.fsio import address_of
from scstore.options import Parameter, parameters_of
from scstore.progress import Output, Reporter


@dataclass
class State:
    """What the options before the command set, and the options of the command that runs."""

    output: Output = field(default_factory=Output)
    debug: bool = False
    parameters: tuple[Parameter, ...] = ()

    @property
    def reporter(self) -> Reporter:
        """Where notes, warnings and progress go, with options as they are typed."""
        self.output.reporter.words = lambda message: printable(in_flags(message, self.parameters))
        return self.output.reporter

    def switch(self, *, quiet: bool = False, as_json: bool = False, debug: bool = False) -> None:
        """Turn on what is asked for; what was asked for before the command stays."""
        if quiet or as_json:
            self.output = Output(quiet=quiet or self.output.quiet, as_json=as_json or self.output.as_json)
        self.debug = self.debug or debug


state = State()
HELP = {"help_option_names": ["-h", "--help"]}
EXIT_CODES = "0 done, 1 a fault, 2 yours to mend, 3 damage found (verify), 130 or 143 stopped"
EPILOGUE = f"Everywhere, before or after the command: --json, -q, --debug. Exit codes: {EXIT_CODES}."
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
SWITCHES = {"quiet": Quiet, "as_json": AsJson, "debug": Debug}  # before a command and, hidden, after it
MORE = "More options"  # heading of the advanced ones
METAVARS = {bool: None, int: "<int>", float: "<float>", str: "<str>", Path: "<path>"}
LOOK: Any = {"rich_markup_mode": "markdown", "pretty_exceptions_enable": False, "context_settings": HELP}


@dataclass(frozen=True)
class Command:
    """A command of the command line; functions are named as ``module:name``."""

    name: str
    function: str  # the public one that does the work
    show: str  # prints its result: show(result, given)
    summary: str
    panel: str  # heading in the list of commands
    examples: tuple[str, ...] = ()  # whole command lines
    adapt: str | None = None  # changes the keyword arguments; its signature may add options of the command line alone
    required: tuple[str, ...] = ()  # options that the command line needs though Python does not
    optional: tuple[str, ...] = ()  # and that it does not need though Python does, for ``adapt`` to look at


class _Plain:
    """Shows switches without a type in the help."""

    def get_params(self, ctx: Any) -> list[Any]:
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of a command or a group
        for one in found:
            if getattr(one, "is_flag", False):
                one.metavar = ""
        return found


class PlainCommand(_Plain, TyperCommand):
    """A command of the command line."""


class LazyCommand(TyperCommand):
    """A command that imports its function only when it runs or prints its own help."""

    def __init__(self, command: Command) -> None:
        super().__init__(command.name, help=command.summary, rich_help_panel=command.panel)
        self._command = command

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return _build(self._command).make_context(info_name, args, parent=parent, **extra)


def group_of(commands: Sequence[Command]) -> type[TyperGroup]:
    class LazyGroup(_Plain, TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = {**{one.name: LazyCommand(one) for one in commands}, **self.commands}

    return LazyGroup


def _load(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _build(command: Command) -> TyperCommand:
    function, show = _load(command.function), _load(command.show)
    adapt = None if command.adapt is None else _load(command.adapt)
    everything = {one.name: one for one in parameters_of(function)}
    own = {name: one for name, one in everything.items() if not one.option.in_python_only}
    own |= {name: replace(own[name], default=inspect.Parameter.empty) for name in command.required}
    own |= {name: replace(own[name], default=None, optional=True) for name in command.optional}
    extra = {} if adapt is None else {one.name: one for one in parameters_of(adapt) if one.name != "given"}
    options = {**own, **extra}

    def run(context: typer.Context, **words: Any) -> None:
        state.switch(**{name: words[name] for name in SWITCHES})
        sources = {name: getattr(context.get_parameter_source(name), "name", "DEFAULT") for name in options}
        words = {name: address_of(word) or word for name, word in words.items()}
        typed = {name: words[name] for name, source in sources.items() if source not in ("DEFAULT", "DEFAULT_MAP")}
        state.parameters = tuple(options.values())
        values = {name: _value(options[name], word) for name, word in typed.items()}
        given = {name: value for name, value in values.items() if name in own}
        if adapt is not None:
            given = adapt(given, **{name: value for name, value in values.items() if name in extra})
        if "progress" in everything:
            given["progress"] = state.reporter
        show(function(**given), {**{name: one.default for name, one in options.items()}, **typed})

    needed = {name for name, one in options.items() if one.option.argument or one.default is inspect.Parameter.empty}
    signature = [_typer_parameter(options[name]) for name in sorted(options, key=lambda name: name not in needed)]
    if n_hidden := sum(one.option.advanced for one in options.values()):
        signature.append(_help_all(n_hidden))
    signature += [_keyword(name, kind, default=False) for name, kind in SWITCHES.items()]
    context = _keyword("context", typer.Context)
    run.__signature__ = inspect.Signature([context, *signature])  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in (context, *signature)}
    app = typer.Typer(add_completion=False, **LOOK)
    app.command(command.name, cls=PlainCommand, help=_help(command, function), epilog=EPILOGUE)(run)
    built = get_command(app)
    assert isinstance(built, TyperCommand)  # noqa: S101  # one command is no group
    for one in built.params:
        if one.name in SWITCHES:
            one.hidden, one.rich_help_panel = True, MORE  # type: ignore[attr-defined]
    return built


def _typer_parameter(parameter: Parameter) -> inspect.Parameter:
    option, required = parameter.option, parameter.default is inspect.Parameter.empty
    kind, default = _typed(parameter)
    common: dict[str, Any] = {"help": option.help, "show_default": not required and default not in (None, [], ())}
    if option.argument:
        said = typer.Argument(**common)
    else:
        element = (get_args(kind) or (kind,))[0]
        metavar = "|".join(map(str, parameter.choices)) if parameter.choices else METAVARS[element]
        if _splits(_list_type(parameter)):
            metavar = "<str,…>"
        panel = MORE if option.advanced else None
        said = typer.Option(
            *_flags(parameter), metavar=metavar, hidden=option.advanced, rich_help_panel=panel, **common
        )
    annotation: Any = Annotated[kind if required or default is not None else kind | None, said]
    return _keyword(parameter.name, annotation, inspect.Parameter.empty if required else default)


def _keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _flags(parameter: Parameter) -> tuple[str, ...]:
    name = parameter.name.replace("_", "-")
    switch = parameter.type is bool and parameter.default is not False
    return parameter.option.flags or ((f"--{name}/--no-{name}",) if switch else (f"--{name}",))


def _list_type(parameter: Parameter) -> Any:
    """The ``Sequence[…]`` or ``Mapping[…]`` that the parameter is or may be; ``None`` for others."""
    members = get_args(parameter.type) if get_origin(parameter.type) in (Union, UnionType) else (parameter.type,)
    return next(
        (one for one in members if get_origin(one) in (collections.abc.Sequence, collections.abc.Mapping)), None
    )


def _typed(parameter: Parameter) -> tuple[Any, Any]:
    default = None if parameter.default is inspect.Parameter.empty else parameter.default
    if (listed := _list_type(parameter)) is not None:
        element = str if _splits(listed) or get_origin(listed) is not collections.abc.Sequence else Path
        return list[element], None if default is None else list(map(str, default))  # type: ignore[valid-type]
    if parameter.choices:
        return str, default
    if parameter.type in (bool, int, float, str):
        return parameter.type, default
    members = get_args(parameter.type)
    if members and set(members) <= {int, float, str}:
        return str, default if default is None else str(default)
    return Path, default


def _value(parameter: Parameter, word: Any) -> Any:
    listed = _list_type(parameter)
    if listed is None or word is None:
        return word
    if get_origin(listed) is collections.abc.Mapping:
        return _mapping(parameter, word)
    element = get_args(listed)[0]
    if not _splits(listed):
        return list(word)
    parts = [part.strip().replace(r"\,", ",") for one in word for part in re.split(r"(?<!\\),", one)]
    if element is not str and parts in (["none"], [""]):
        return []
    if element not in (int, float):
        return parts
    try:
        return [element(part) for part in parts]
    except ValueError:
        what = "whole numbers" if element is int else "numbers"
        raise OptionError(f"{parameter.name}={','.join(word)!r}: give {what}, such as 1,6.") from None


def _splits(listed: Any) -> bool:
    """Whether a comma in a word of this list parts two values; in names of files and after NAME= it does not."""
    one = (*get_args(listed), None)[0]
    return get_origin(listed) is collections.abc.Sequence and (one in (str, int, float) or get_origin(one) is Literal)


def _mapping(parameter: Parameter, words: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals or not value:
            raise OptionError(f"{parameter.name}={word!r}: write NAME=VALUE.")
        found.setdefault(name, []).append(value)
    return found


def _help(command: Command, function: Callable[..., Any]) -> str:
    text = inspect.getdoc(function) or ""
    body = re.split(r"\n[A-Z][a-z]+\n-+\n", text)[0].split("\n\n")[1:]
    examples = ["Examples:", *(f"    {line}" for line in command.examples)] if command.examples else []
    typed = [in_flags(part.replace("\n", " "), parameters_of(function)) for part in body]
    return "\n\n".join([command.summary, *typed, *examples])


def _help_all(n_hidden: int) -> inspect.Parameter:
    def show(context: typer.Context, wanted: bool) -> None:  # noqa: FBT001  # typer's signature
        if wanted:
            for one in context.command.params:
                one.hidden = False  # type: ignore[attr-defined]
            typer.echo(context.get_help())
            raise typer.Exit

    help_text = f"Show {n_hidden} more options."
    option = typer.Option("--help-all", is_eager=True, callback=show, help=help_text)
    return _keyword("help_all", Annotated[bool, option], default=False)


def in_flags(message: str, parameters: Iterable[Parameter]) -> str:
    """The message with the options of this command as they are typed: ``top_genes=20`` as ``--top-genes 20``."""
    by_name = {one.name: one for one in parameters}
    if not by_name:
        return message
    names = "|".join(sorted(map(re.escape, by_name), key=len, reverse=True))
    pattern = rf"(?<![\w.-])({names})=('[^']*'|\"[^\"]*\"|\[[^\]]*\]|\([^)]*\)|[\w/.:+-]*\w)?"

    def typed(match: re.Match[str]) -> str:
        flag, value = _flags(by_name[match[1]]), match[2]
        if by_name[match[1]].type is bool:
            on, _, off = flag[0].partition("/")
            return off if value == "False" and off else on
        word = max(flag, key=len)
        if value is None:
            return word
        value = value[1:-1].replace("'", "").replace(", ", ",") if value[0] in "([" else value
        inner = value[1:-1] if value[0] in "'\"" else value
        return f"{word} {value if ' ' in inner or not inner else inner}"

    return re.sub(pattern, typed, message)
