"""The base of all heads: scikit-learn's contract over rows that may lie on disk."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_random_state, compute_class_weight
from sklearn.utils.validation import check_is_fitted, validate_data

from scstore.described import Described
from scstore.errors import DamagedError, FeatureSpaceError, LabelsError, OptionError
from scstore.heads.class_numbers import Labels, encode_labels
from scstore.heads.rows import Array, Rows, is_lazy, iter_blocks
from scstore.heads.training import one_blas_thread
from scstore.options import did_you_mean

JSON = Any  # a JSON value
State = dict[str, Any]  # a fitted part as nested JSON values and arrays
SHOWN = 8  # labels shown of a head
PREDICT_BYTES = 1 << 23  # bytes of float32 in a block of a prediction; it is widened to float64


class DescribedHead(Described):
    """Shows what a fitted head was trained on and how good it is."""

    kind: str
    classes_: Array
    held_out_: dict[str, Any]
    record_: dict[str, Any]

    def described(self) -> tuple[str, Mapping[str, str]]:
        """Return what is shown at a prompt and in notebooks."""
        title = f"{self.kind} head"
        if not hasattr(self, "classes_"):
            return title, {"state": "not fitted"}
        names = [str(name) for name in self.classes_]
        more = ", …" if len(names) > SHOWN else ""
        facts = {
            "labels": f"{len(names)} ({', '.join(names[:SHOWN])}{more})",
            "reads": ", ".join(getattr(self, "views_", ())),
        }
        if trained := self.record_.get("trained_on"):
            facts["trained on"] = f"{trained['n_cells']:,} cells of {trained['name']}"
        if self.held_out_.get("n"):
            facts["held out"] = f"accuracy {self.held_out_['accuracy']:.3f}, macro-F1 {self.held_out_['macro_f1']:.3f}"
        return title, facts


class RowClassifier(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn is untyped
    """A classifier over :class:`~scstore.heads.rows.Rows` or arrays; a row's probabilities depend on no other row."""

    classes_: Array
    n_features_in_: int

    # Whether predictions are small products, better left on one thread.
    _ONE_THREAD: ClassVar[bool] = True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    @abstractmethod
    def fit(self, X: Any, y: Any) -> Self:
        """Learn from rows ``(n, d)`` and labels ``(n,)``."""

    @abstractmethod
    def training_note(self) -> str:
        """Return one line that says how the fitted head was trained."""

    @abstractmethod
    def _learned(self) -> State:
        """Return what the fit learned, beside the classes."""

    @abstractmethod
    def _load(self, state: Mapping[str, Any]) -> None:
        """Take what :meth:`_learned` returned; the parameters, classes and width are set."""

    @abstractmethod
    def _log_proba(self, block: Array) -> Array:
        """Return log-probabilities ``(b, n_classes) float64`` of rows ``(b, d) float32``."""

    def predict_log_proba(self, X: Any) -> Array:
        """Return log-probabilities ``(n, n_classes) float64`` of rows ``(n, d)``, computed block by block."""
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        result = np.empty((rows.shape[0], len(self.classes_)))
        with one_blas_thread() if self._ONE_THREAD else nullcontext():
            for start, block in iter_blocks(rows, block_bytes=PREDICT_BYTES):
                result[start : start + len(block)] = self._log_proba(block)
        return result

    def predict_proba(self, X: Any) -> Array:
        """Return probabilities ``(n, n_classes) float64`` of rows ``(n, d)``; each row sums to 1."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> Array:
        """Return the most probable label of each row, ``(n,)``; of equal ones the first in ``classes_``."""
        best = self.predict_log_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def _begin(self, X: Any, y: Any) -> tuple[Rows, Labels]:
        """Check the training data, and set ``classes_`` and ``n_features_in_``."""
        rows = self._rows(X, reset=True)
        labels = encode_labels(y, rows.shape[0])
        self.classes_ = labels.classes
        return rows, labels

    def _rows(self, X: Any, *, reset: bool) -> Rows:
        if not is_lazy(X):
            # Whether the values are finite is checked block by block, where no copy of the whole is needed.
            floats = [np.float64, np.float32, np.float16]
            rows: Rows = validate_data(self, X, reset=reset, accept_sparse="csr", dtype=floats, ensure_all_finite=False)
            return rows
        rows = X
        n, width = rows.shape
        if reset and (n == 0 or width == 0):
            raise LabelsError(f"X: {n} sample(s) of {width} feature(s). Give rows to learn from.")
        if reset:
            self.n_features_in_ = width
            self.__dict__.pop("feature_names_in_", None)
        elif width != self.n_features_in_:
            raise FeatureSpaceError(
                f"X has {width} features, but {type(self).__name__} is expecting {self.n_features_in_} features as "
                f"input. Give it the view that it was trained on."
            )
        return rows

    def to_state(self) -> State:
        """Return the fitted head as nested JSON values and arrays; :meth:`from_state` takes them back."""
        check_is_fitted(self)
        params = self.get_params(deep=False)
        for name, value in params.items():
            if not isinstance(value, str | int | float | bool | list | tuple | dict | None):
                raise OptionError(f"{name}: a {type(value).__name__} cannot be saved. Give a plain number or text.")
        return {
            "params": {name: list(v) if isinstance(v, tuple) else v for name, v in params.items()},
            "classes": self.classes_.tolist(),
            "n_features_in": int(self.n_features_in_),
            **self._learned(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the fitted head; :class:`DamagedError` where its parts do not fit together."""
        with loading():
            head = cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in state["params"].items()})
            classes, width = state["classes"], state["n_features_in"]
            named = isinstance(classes, list) and all(isinstance(label, str | int | float) for label in classes)
            require(named and len(classes) >= 2, "Its classes are not at least two texts or numbers.")
            require(isinstance(width, int) and width > 0, f"n_features_in={width!r}.")
            head.classes_, head.n_features_in_ = np.array(classes), width
            head._load(state)
        return head


def require(condition: object, what: str) -> None:
    """Refuse a saved head with parts that are impossible or do not fit together."""
    if not condition:
        raise DamagedError(f"{what} The head is damaged: restore it from a copy, or fit it again.")


@contextmanager
def loading() -> Iterator[None]:
    """Turn the errors of a malformed saved head into :class:`DamagedError`."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedError(f"The head is damaged ({type(error).__name__}: {error}). Fit it again.") from error


def take_arrays(
    state: Mapping[str, Any], shapes: Mapping[str, str], *, integers: Collection[str] = (), **sizes: int
) -> dict[str, Array]:
    """Return arrays of a saved head, of floats or ``integers``, whose shapes ("cd") give each letter one size."""
    for name, shape in shapes.items():
        array = state[name]
        fits = array.ndim == len(shape) and array.dtype.kind == ("i" if name in integers else "f")
        fits = fits and all(sizes.setdefault(at, size) == size for at, size in zip(shape, array.shape, strict=True))
        require(fits, f"{name}: an unexpected array of {array.dtype} of shape {array.shape}.")
    return {name: state[name] for name in shapes}


def seeded(random_state: Any) -> np.random.Generator:
    """Return a generator from scikit-learn's kinds of ``random_state``."""
    return np.random.default_rng(int(check_random_state(random_state).randint(2**31 - 1)))


def class_weights(class_weight: Any, labels: Labels) -> Array:
    """Return each row's weight ``(n,) float64`` from ``None``, ``"balanced"`` or a mapping of label to weight."""
    if isinstance(class_weight, Mapping):  # by the labels' text: scikit-learn takes the label "0" for the number 0
        given, names = {str(label): float(weight) for label, weight in class_weight.items()}, labels.classes.astype(str)
        by_class = np.array([given.get(name, 1.0) for name in names])
        absent, unused = sorted({*names} - {*given}), sorted({*given} - {*names})
        if absent and unused:
            raise OptionError(f"class_weight: no label is named {unused[0]!r}. Labels without a weight: {absent[0]!r}.")
    else:
        by_class = compute_class_weight(class_weight, classes=labels.classes, y=labels.classes[labels.codes])
    return np.asarray(by_class, dtype=np.float64)[labels.codes]


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Refuse a value that is not among the choices."""
    if value not in choices:
        suggestion = did_you_mean(str(value), choices, form=f"{name}='{{}}'")
        raise OptionError(f"{name}={value!r}: must be one of {', '.join(choices)}.{suggestion}")


def check_positive(**options: float) -> None:
    """Refuse options that are not positive, finite numbers."""
    for name, value in options.items():
        if isinstance(value, bool) or not np.isreal(value) or not 0 < value < np.inf:
            raise OptionError(f"{name}={value!r}: must be a positive number.")
