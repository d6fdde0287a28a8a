"""Every error that scstore raises on purpose.

What the user can mend is an ``InputError`` (exit code 2), what broke or is damaged a ``FaultError`` (1). The message
names the file, row or field, then what to do next. Cell ids and gene names are data: they may hold newlines, terminal
escapes or ten thousand characters, so `show` escapes and shortens them, and no message shows control characters
(`printable`).
"""

import re
from collections.abc import Iterable


class ScstoreError(Exception):
    """Base of all errors raised by scstore.

    Attributes
    ----------
    kind
        Stable, machine-readable name of the error (printed by ``--json``): that of the class, as ``feature_space``.
    exit_code
        What the command line exits with.
    """

    kind: str = "error"
    exit_code: int = 1

    def __init_subclass__(cls) -> None:
        cls.kind = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Error")).lower()

    def __str__(self) -> str:
        return printable(super().__str__())

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), str(self))


def _again(kind: type[ScstoreError], message: str) -> ScstoreError:
    """Return an error that another process raised."""
    error = kind.__new__(kind, message)
    error.args = (message,)
    return error


class InputError(ScstoreError, ValueError):
    """The user can mend it."""

    exit_code = 2


class CellsError(InputError):
    """An input of cells cannot be used as it is."""


class GenesError(InputError):
    """Gene texts, a gene table, a panel, or their match with the cells."""


class OptionError(InputError):
    """An option, or options that do not go together."""


class ModelError(InputError):
    """A model that cannot or may not be loaded."""


class FeatureSpaceError(InputError):
    """A head, store or run that belongs to another feature space."""


class LabelsError(InputError):
    """Labels that cannot be learned from."""


class OutputError(InputError):
    """An output that exists already or cannot be written."""


class NotAStoreError(InputError):
    """A path that holds no store, no AnnData and no head."""


class IncompleteStoreError(InputError):
    """Rows that are not extracted yet."""


class NewerFormatError(InputError):
    """A file that a later scstore wrote, of the format ``found``; this one reads those up to ``known``."""

    def __init__(self, path: object, found: str, known: str) -> None:
        super().__init__(f"{path}: format {found}; this scstore reads up to {known}. Update it: pip install -U scstore")


class MissingExtraError(InputError, ImportError):
    """An optional dependency is not installed: ``needs`` begins a sentence, ``extra`` of scstore brings it."""

    def __init__(self, needs: str, extra: str) -> None:
        super().__init__(f"{needs} needs more packages. Install them with: pip install 'scstore[{extra}]'")


class FaultError(ScstoreError, RuntimeError):
    """Something broke or is damaged."""


class DamagedError(FaultError):
    """Bytes that do not match their digest, or do not parse."""


class UnreadableError(FaultError):
    """The system failed to read: a network disk, a permission, too many open files. The file may be whole."""


class LockedError(FaultError):
    """Somebody else is writing."""


class NetworkError(FaultError):
    """A server that cannot be reached, or does not answer as it should."""


class NumericsError(FaultError):
    """Hidden states that are not finite."""


class ScstoreWarning(UserWarning):
    """A result may be worse than the caller expects: base of all warnings given by scstore.

    Attributes
    ----------
    args
        The message.
    """


class CellsWarning(ScstoreWarning):
    """Cells that lack something: without an expressed gene, without a label."""


class GeneMatchWarning(ScstoreWarning):
    """Genes that are missing, or names that hardly match."""


class LabelsWarning(ScstoreWarning):
    """Labels that look wrong."""


class FarFromReferenceWarning(ScstoreWarning):
    """Predictions that rest on little: the cells are unlike those of the training."""


LONGEST = 60

# Signs that move the cursor, colour or hide text, or turn its direction; tabs and ends of lines may be meant.
UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)

# Folders that stand for an address, which is shown in their place.
STANDS_FOR: dict[str, str] = {}


def printable(text: str) -> str:
    r"""Return text whose control characters are escaped, for terminals, figures and pages.

    Examples
    --------
    >>> printable("T\x1b[2J cells")
    'T\\x1b[2J cells'
    """
    for folder, address in STANDS_FOR.items():
        text = text.replace(folder, address)
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def show(name: object) -> str:
    r"""One name in quotes, escaped, and cut when it is long.

    Examples
    --------
    >>> show("AAAC\n-1")
    "'AAAC\\n-1'"
    """
    text = str(name)
    if len(text) <= LONGEST:
        return repr(text)
    return f"{text[: LONGEST - 20]!r}… ({len(text):,} characters)"


def show_some(names: Iterable[object], *, limit: int = 3) -> str:
    """The first few names, separated by commas, and whether there are more."""
    listed = list(names)
    text = ", ".join(show(name) for name in listed[:limit])
    return f"{text}, …" if len(listed) > limit else text
