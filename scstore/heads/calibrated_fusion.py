"""From what each branch says of a cell to one calibrated probability a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scstore.heads.calibration import fit_temperature
from scstore.heads.rows import Array
from scstore.heads.softmax import log_softmax

__all__ = ["Fusion", "fit_fusion"]


@dataclass(frozen=True, eq=False)
class Fusion:
    """How the log-probabilities of branches become one calibrated probability a class.

    Each branch's are divided by its temperature; their mean is adjusted for the classes' shares and divided by one
    more temperature. A branch is calibrated before the shares are taken back: an overconfident one would drown them.

    Attributes
    ----------
    shares
        ``(n_classes,) float64``: share of each class among the training cells.
    prior_adjustment
        How much of the shares is taken back, 0 to 1 (logit adjustment, Menon et al. 2021, arXiv 2007.07314).
    temperatures
        One a branch.
    temperature
        Of the fused log-probabilities.
    """

    shares: Array
    prior_adjustment: float
    temperatures: tuple[float, ...]
    temperature: float

    def proba(self, log_probas: Sequence[Array]) -> Array:
        """Probabilities ``(n, n_classes) float64`` from each branch's log-probabilities of the same n cells."""
        calibrated = [log_softmax(p / t) for p, t in zip(log_probas, self.temperatures, strict=True)]
        fused = sum(calibrated[1:], calibrated[0]) / len(calibrated) - self.prior_adjustment * np.log(self.shares)
        proba: Array = np.exp(log_softmax(fused / self.temperature))
        return proba


def fit_fusion(held_out: Sequence[Array], codes: Array, *, shares: Array, prior_adjustment: float) -> Fusion:
    """Fit the temperatures on cells that the branches were not trained on.

    Parameters
    ----------
    held_out
        For each branch its log-probabilities ``(m, n_classes)`` of the same m cells. Without cells every temperature
        is 1.
    codes
        ``(m,)`` columns of their true classes.
    shares, prior_adjustment
        As in :class:`Fusion`.
    """
    temperatures = tuple(fit_temperature(p, codes) for p in held_out)
    warm = Fusion(shares, prior_adjustment, temperatures, 1.0)
    return Fusion(shares, prior_adjustment, temperatures, fit_temperature(np.log(warm.proba(held_out)), codes))
