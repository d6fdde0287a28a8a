"""Options of the public functions, each said once.

A public function says its options in its own signature, ``name: Annotated[type, Option("help")] = default``, or in
one frozen dataclass of such fields (:func:`with_options`). Its ``Parameters`` section, its command, the help of that
command and the checks of its values are made from there.
"""

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Concatenate, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from scstore.errors import OptionError
from scstore.progress import Reporter

P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
OptionsT = TypeVar("OptionsT")
R = TypeVar("R")


@dataclass(frozen=True)
class Option:
    """What is said of a parameter beside its name, type and default."""

    help: str
    flags: tuple[str, ...] = ()  # names on the command line, where they are not --name
    argument: bool = False  # given by its place on the command line
    minimum: float | None = None
    maximum: float | None = None
    advanced: bool = False  # shown by --help-all alone
    in_python_only: bool = False  # has no place on the command line


# Of a rarely used option between 0 and 1.
fraction = functools.partial(Option, minimum=0, maximum=1, advanced=True)

Overwrite = Annotated[bool, Option("Replace an output of scstore's that exists.")]
AllowPartial = Annotated[bool, Option("Use the cells that are extracted so far.", advanced=True)]
Seed = Annotated[int, Option("The same seed gives the same result.", advanced=True)]
Dask = Annotated[
    str | None,
    Option("Run on a Dask cluster: the scheduler's address or its file, or local for this machine's.", advanced=True),
]
Progress = Annotated[Reporter | None, Option("Receives notes, warnings and progress.", in_python_only=True)]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a public function."""

    name: str
    type: Any  # without Annotated, and without None
    optional: bool  # whether None is allowed
    default: Any  # inspect.Parameter.empty where one must be given
    option: Option

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a ``Literal``; empty for other types."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()


def parameters_of(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Parameters of a function or of an options dataclass, in order."""
    make: Any = getattr(function, "__options__", None)
    own = inspect.unwrap(function) if make is None else function.__wrapped__  # type: ignore[attr-defined]
    hints = get_type_hints(own, include_extras=True)
    found: list[Parameter] = []
    for name, one in inspect.signature(own).parameters.items():
        if make is not None and hints.get(name) == make:
            found.extend(parameters_of(make))
        else:
            found.append(_parameter(name, hints.get(name, Any), one.default))
    return tuple(found)


def _parameter(name: str, hint: Any, default: Any) -> Parameter:
    option = Option("")
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        option = next((extra for extra in extras if isinstance(extra, Option)), option)
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kept = tuple(member for member in members if member is not NoneType)
    if set(kept) == {str, Sequence[str]}:  # one text or several: a list on the command line
        kept = (Sequence[str],)
    return Parameter(name, kept[0] if len(kept) == 1 else Union[kept], len(kept) < len(members), default, option)  # noqa: UP007


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Check the options of each call, and write the ``Parameters`` section of the docstring from the signature."""

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        _check(checked, kwargs)
        return function(*args, **kwargs)

    checked.__doc__ = _documented(checked)
    return checked


def with_options(
    make: Callable[P, OptionsT],
) -> Callable[[Callable[[A, B, OptionsT], R]], Callable[Concatenate[A, B, P], R]]:
    """Give a function of two arguments and an options object the object's fields as keyword arguments."""

    def decorate(function: Callable[[A, B, OptionsT], R]) -> Callable[Concatenate[A, B, P], R]:
        before = list(inspect.signature(function).parameters.values())[:2]
        signature = inspect.Signature([*before, *inspect.signature(make).parameters.values()])

        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> R:
            _check(checked, kwargs)
            given = signature.bind(*args, **kwargs).arguments
            first, second = (given.pop(one.name) for one in before)
            return function(first, second, make(**given))  # type: ignore[call-arg]

        checked.__options__ = make  # type: ignore[attr-defined]
        checked.__signature__ = signature  # type: ignore[attr-defined]
        checked.__doc__ = _documented(checked)
        return checked

    return decorate


def did_you_mean(wrong: str, known: Iterable[str], *, form: str = "{}") -> str:
    """`` Did you mean …?`` where something known is spelled alike, else nothing."""
    plain = {re.sub(r"[\W_]+", "", name).casefold(): name for name in reversed(list(known))}
    close = difflib.get_close_matches(re.sub(r"[\W_]+", "", wrong).casefold(), plain, n=1)
    return f" Did you mean {form.format(plain[close[0]])}?" if close else ""


def _check(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    known = {one.name: one for one in parameters_of(function)}
    for name, value in given.items():
        if name not in known:
            raise OptionError(f"{function.__name__} has no option {name}=.{did_you_mean(name, known, form='{}=')}")
        check_value(known[name], value)


def check_value(parameter: Parameter, value: Any) -> None:
    """Refuse a value that is not among the choices or outside the limits."""
    name, option = parameter.name, parameter.option
    if parameter.choices and value not in parameter.choices and not (value is None and parameter.optional):
        choices = ", ".join(map(str, parameter.choices))
        suggestion = did_you_mean(str(value), map(str, parameter.choices), form=f"{name}='{{}}'")
        raise OptionError(f"{name}={value!r}: not one of {choices}.{suggestion}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = option.minimum, option.maximum
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            between = f"between {low:g} and {high:g}" if low is not None and high is not None else (
                f"at least {low:g}" if low is not None else f"at most {high:g}"
            )  # fmt: skip
            raise OptionError(f"{name}={value:g}: must be {between}.")


def _documented(function: Callable[..., Any]) -> str:
    """The docstring with a ``Parameters`` section before its first other section."""
    lines = inspect.cleandoc(function.__doc__ or "").splitlines()
    section = ["Parameters", "----------"]
    for one in parameters_of(function):
        section += [one.name, f"    {one.option.help}"]
    rule = next((i for i, line in enumerate(lines) if line and set(line) == {"-"}), len(lines) + 1)
    before, after = lines[: rule - 1], lines[rule - 1 :]
    return "\n".join([*before, *([""] if before and before[-1] else []), *section, "", *after])
