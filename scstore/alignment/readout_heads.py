"""The heads that a projector is trained against: one for each pooled hidden state, thrown away afterwards."""

from __future__ import annotations

from scstore.errors import MissingExtraError
from scstore.model.trained_projector import initialise

try:
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy
except ImportError as error:
    needs = "Training a projector"
    raise MissingExtraError(needs, "extract") from error

__all__ = ["ReadoutHeads"]

ITERATIONS = 100


class ReadoutHeads(nn.Module):
    """Classifiers of pooled hidden states: blocks × (Linear, SiLU), then Linear, for each view.

    Parameters
    ----------
    n_views
        Pooled hidden states of a cell: layers times poolings.
    width
        Of each.
    n_classes
        Labels.
    blocks
        (Linear, SiLU) blocks. Heads without blocks see standardised rows of length about 1.
    penalty
        ``|W|² / (2 · penalty · n_cells)`` is added to the loss of heads without blocks; 0 for none.
    seed
        Of the first weights.
    """

    def __init__(
        self, n_views: int, width: int, n_classes: int, *, blocks: int = 0, penalty: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.penalty = penalty

        def head() -> nn.Sequential:
            hidden = [part for _ in range(blocks) for part in (nn.Linear(width, width), nn.SiLU())]
            return nn.Sequential(*hidden, nn.Linear(width, n_classes))

        self.views = nn.ModuleList(head() for _ in range(n_views))
        initialise(self.views, seed=seed)
        self.register_buffer("mean", torch.zeros(n_views, 1, width))
        self.register_buffer("scale", torch.ones(n_views, 1, width))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """``(n_views, B, n_classes)`` logits of ``(n_views, B, width)`` pooled hidden states."""
        rows = (pooled - self.mean) / self.scale  # type: ignore[operator]
        return torch.stack([head(view) for head, view in zip(self.views, rows, strict=True)])

    def losses(self, pooled: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """``(B,)`` cross-entropy of each cell, averaged over the views."""
        logits = self(pooled)
        each = cross_entropy(logits.flatten(0, 1), codes.repeat(len(logits)), reduction="none")
        return each.view(len(logits), -1).mean(dim=0)

    def penalty_over(self, n_cells: int) -> torch.Tensor | None:
        """What is added to the mean loss, averaged over the views as that is."""
        if not self.penalty:
            return None
        squares = [(head[-1].weight ** 2).sum() for head in self.views]  # type: ignore[index]
        total: torch.Tensor = torch.stack(squares).mean() / (2 * self.penalty * n_cells)
        return total

    def standardise(self, pooled: torch.Tensor) -> None:
        """Take mean and scale from pooled hidden states ``(n_views, n, width)``, once, before training."""
        width = pooled.shape[2]
        self.mean.copy_(pooled.mean(dim=1, keepdim=True))  # type: ignore[operator]
        self.scale.copy_(pooled.std(dim=1, keepdim=True).clamp_min(1e-6) * width**0.5)  # type: ignore[operator]

    def fit(self, pooled: torch.Tensor, codes: torch.Tensor) -> None:
        """Find the optimum for hidden states that do not move: penalised logistic regression, by L-BFGS.

        A head that starts at random would first pull the projector about at random.
        """
        with torch.no_grad():
            for weights in self.views.parameters():
                weights.zero_()
        optimiser = torch.optim.LBFGS(self.views.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def objective() -> torch.Tensor:
            optimiser.zero_grad()
            loss = self.losses(pooled, codes).mean()
            if (penalty := self.penalty_over(pooled.shape[1])) is not None:
                loss = loss + penalty
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimiser.step(objective)  # type: ignore[no-untyped-call]
