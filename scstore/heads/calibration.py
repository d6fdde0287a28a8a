"""Temperature scaling, the fusion of members into one calibrated probability per class, and which members earn it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from scstore.heads.preprocessing import few_share
from scstore.heads.rows import Array
from scstore.heads.training import log_softmax

HOTTEST = 50.0  # temperatures are sought from 1/50 to 50
TINY = float(np.finfo(np.float64).tiny)
LEAST_GAIN = 0.01  # share of the loss by which a member has to lower it: noise shifts a loss a little, and evenly


def fit_temperature(logits: Array, truth: Array) -> float:
    """Return the temperature T that makes ``softmax(logits / T)`` most likely (Guo et al., 2017); 1 without cells.

    Minimises ``Σ NLL(T) + log²(T) / 2`` over the cells. The last term is a normal prior on log T that
    weighs as little as one cell: it only matters where the cells are few and all predicted right, and any small T
    would do. ``logits`` ``(n, c)`` are of cells that the head was not trained on, ``truth`` ``(n,)`` their classes.
    """
    margins = logits - logits[np.arange(len(truth)), truth][:, None]

    def objective(log_temperature: float) -> float:
        likelihood = logsumexp(margins * np.exp(-log_temperature), axis=1).sum()
        return float(likelihood + 0.5 * log_temperature**2)

    edge = np.log(HOTTEST)
    found = minimize_scalar(objective, bounds=(-edge, edge), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x)) if len(truth) else 1.0


@dataclass(frozen=True, eq=False)
class Fusion:
    """The way from the log-probabilities of members to one calibrated probability per class.

    A member is calibrated before the adjustment for the classes' shares in training (Menon et al. 2021,
    arXiv 2007.07314), of which ``prior_adjustment`` is the part: an overconfident one would drown it.
    """

    shares: Array
    prior_adjustment: float
    temperatures: tuple[float, ...]
    temperature: float

    def proba(self, log_probas: Sequence[Array]) -> Array:
        """Return probabilities ``(n, n_classes) float64`` from each member's log-probabilities of the same n cells."""
        calibrated = [log_softmax(p / t) for p, t in zip(log_probas, self.temperatures, strict=True)]
        fused = sum(calibrated[1:], calibrated[0]) / len(calibrated) - self.prior_adjustment * np.log(self.shares)
        return np.exp(log_softmax(fused / self.temperature))

    def calibrated(self, log_probas: Sequence[Array], truth: Array) -> Self:
        """Return the fusion with the temperature that held-out cells ask for."""
        proba = replace(self, temperature=1.0).proba(log_probas)
        return replace(self, temperature=fit_temperature(np.log(np.maximum(proba, TINY)), truth))


def fit_fusion(held_out: Sequence[Array], truth: Array, *, shares: Array, prior_adjustment: float) -> Fusion:
    """Fit the temperatures on log-probabilities ``(m, n_classes)`` of held-out cells; each is 1 without cells."""
    temperatures = tuple(fit_temperature(p, truth) for p in held_out)
    return Fusion(shares, prior_adjustment, temperatures, 1.0).calibrated(held_out, truth)


def earning_members(
    held_out: Mapping[str, Array], truth: Array, *, optional: Sequence[str], shares: Array, prior_adjustment: float
) -> tuple[str, ...]:
    """Return the members that stay: optional ones are added greedily while they make held-out cells more likely.

    The gain must be more than a hundredth of what there is to gain, and than one standard error; where labels are few,
    than ``√(30 / n)`` of them, for the folds then have hardly more than the same few cells to learn from.
    """

    def losses(names: Sequence[str]) -> Array:
        parts = [held_out[name] for name in names]
        proba = fit_fusion(parts, truth, shares=shares, prior_adjustment=prior_adjustment).proba(parts)
        return np.asarray(-np.log(np.maximum(proba[np.arange(len(truth)), truth], TINY)))

    chosen = [name for name in held_out if name not in optional]
    if not chosen or not len(truth):
        return tuple(held_out)
    now, errors = losses(chosen), 1 / (1 - few_share(len(truth), len(shares)))
    while left := [name for name in held_out if name not in chosen]:
        tried = {name: losses([*chosen, name]) for name in left}
        best = min(left, key=lambda name: tried[name].mean())
        gain = now - tried[best]
        if gain.mean() <= max(errors * gain.std() / np.sqrt(len(gain)), LEAST_GAIN * now.mean()):
            break
        chosen, now = [*chosen, best], tried[best]
    return tuple(name for name in held_out if name in chosen)
