"""The base of all heads: scikit-learn's contract over rows that may lie on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_random_state, compute_class_weight
from sklearn.utils.validation import check_is_fitted, validate_data

from scstore.errors import DamagedError, FeatureSpaceError, LabelsError, OptionError
from scstore.heads.labels import Labels, encode_labels
from scstore.heads.rows import Array, Rows, is_lazy, iter_blocks
from scstore.heads.training import one_blas_thread
from scstore.options import did_you_mean

JSON = Any  # a JSON value
State = dict[str, Any]  # a fitted part as nested JSON values and arrays
PREDICT_BYTES = 1 << 23  # bytes of float32 in a block of a prediction; it is widened to float64


class RowClassifier(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn is untyped
    """A classifier over :class:`~scstore.heads.rows.Rows`.

    ``X`` may be an array, a sparse matrix, a data frame, or anything that answers ``shape`` and ``[slice | int
    array]``; the last is read in blocks. A row's probabilities do not depend on the rows beside it: they are
    computed in float64.
    """

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
    def to_state(self) -> State:
        """Return the fitted head as nested JSON values and arrays; :meth:`from_state` takes them back."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the fitted head; :class:`DamagedError` where its parts do not fit together."""

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
        result: Array = np.exp(self.predict_log_proba(X))
        return result

    def predict(self, X: Any) -> Array:
        """Return the most probable label of each row, ``(n,)``; of equal ones the first in ``classes_``."""
        best = self.predict_log_proba(X).argmax(axis=1)
        result: Array = self.classes_[best]
        return result

    def _begin(self, X: Any, y: Any) -> tuple[Rows, Labels]:
        """Check the training data, and set ``classes_`` and ``n_features_in_``."""
        rows = self._rows(X, reset=True)
        labels = encode_labels(y, rows.shape[0])
        self.classes_ = labels.classes
        return rows, labels

    def _rows(self, X: Any, *, reset: bool) -> Rows:
        if not is_lazy(X):
            # Whether the values are finite is checked block by block, where no copy of the whole is needed.
            checked: Rows = validate_data(
                self,
                X,
                reset=reset,
                accept_sparse="csr",
                dtype=[np.float64, np.float32, np.float16],
                ensure_all_finite=False,
            )
            return checked
        rows: Rows = X
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

    def _state(self) -> State:
        """Return what every head saves: parameters, classes and width."""
        check_is_fitted(self)
        params = self.get_params(deep=False)
        for name, value in params.items():
            if not isinstance(value, str | int | float | bool | list | tuple | dict | None):
                msg = f"{name}: a {type(value).__name__} cannot be saved with the head. Give a plain number or text."
                raise OptionError(msg)
        return {
            "params": {name: list(v) if isinstance(v, tuple) else v for name, v in params.items()},
            "classes": self.classes_.tolist(),
            "n_features_in": int(self.n_features_in_),
        }

    @classmethod
    def _restore(cls, state: Mapping[str, Any]) -> Self:
        """Return a head with its parameters, classes and width, still without what it learned."""
        saved: dict[str, Any] = {name: state.get(name) for name in ("params", "classes", "n_features_in")}
        params, classes, width = saved.values()
        require(isinstance(params, Mapping) and set(params) <= set(cls._get_param_names()), f"params={params!r}.")
        named = isinstance(classes, list) and all(isinstance(label, str | int | float) for label in classes)
        require(named and len(classes) >= 2, "Its classes are not at least two texts or numbers.")
        require(isinstance(width, int) and width > 0, f"n_features_in={width!r}.")
        head = cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in params.items()})
        head.classes_, head.n_features_in_ = np.array(classes), width
        return head


def require(condition: object, what: str) -> None:
    """Refuse a saved head with parts that are impossible or do not fit together."""
    if not condition:
        raise damaged(what)


def damaged(what: str) -> DamagedError:
    """Return the error for a saved head that cannot be used."""
    return DamagedError(f"{what} The head is damaged: restore it from a copy, or fit it again.")


def take_array(state: Mapping[str, Any], name: str, *, shape: tuple[int, ...], kind: str = "f") -> Array:
    """Return an array of a saved head; :class:`DamagedError` where it is missing or has another shape or kind of dtype.

    In ``shape`` -1 stands for any length; ``kind`` is NumPy's letter, "f" for floats and "i" for integers.
    """
    array: Any = state.get(name)
    require(isinstance(array, np.ndarray), f"The array {name!r} is missing.")
    fits = len(shape) == array.ndim and all(want in (-1, have) for want, have in zip(shape, array.shape, strict=True))
    what = f"{name}: {array.dtype} of shape {array.shape} in place of {shape} ({kind}; -1: any length)."
    require(fits and array.dtype.kind == kind, what)
    found: Array = array
    return found


def seeded(random_state: Any) -> np.random.Generator:
    """Return a generator from scikit-learn's kinds of ``random_state``."""
    return np.random.default_rng(int(check_random_state(random_state).randint(2**31 - 1)))


def class_weights(class_weight: Any, labels: Labels) -> Array:
    """Return each row's weight ``(n,) float64`` from ``None``, ``"balanced"`` or a mapping of label to weight."""
    by_class = compute_class_weight(class_weight, classes=labels.classes, y=labels.classes[labels.codes])
    result: Array = np.asarray(by_class, dtype=np.float64)[labels.codes]
    return result


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
