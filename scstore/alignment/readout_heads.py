"""The heads that a projector is trained against, one for each pooled hidden state; they are not kept."""

from __future__ import annotations

from scstore.errors import MissingExtraError
from scstore.model.trained_projector import initialise

try:
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy
except ImportError as error:
    raise MissingExtraError("Training a projector", "extract") from error

ITERATIONS = 100


class ReadoutHeads(nn.Module):
    """Classifiers of pooled hidden states: blocks × (Linear, SiLU), then Linear, for each layer and pooling."""

    def __init__(self, n_views: int, width: int, n_classes: int, *, blocks: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.is_linear = blocks == 0

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

    def penalty(self, n_cells: int) -> torch.Tensor:
        """Return what is added to the mean loss of linear heads, averaged over the views as that is."""
        squares = [(head[-1].weight ** 2).sum() for head in self.views]  # type: ignore[index]
        total: torch.Tensor = torch.stack(squares).mean() / (2 * n_cells)
        return total

    def fit(self, pooled: torch.Tensor, codes: torch.Tensor) -> None:
        """Standardise, and start at the optimum of linear heads for fixed hidden states, found by L-BFGS."""
        self.mean.copy_(pooled.mean(dim=1, keepdim=True))  # type: ignore[operator]
        scale = pooled.std(dim=1, keepdim=True).clamp_min(1e-6) * pooled.shape[2] ** 0.5
        self.scale.copy_(scale)  # type: ignore[operator]
        with torch.no_grad():
            for weights in self.views.parameters():
                weights.zero_()
        optimiser = torch.optim.LBFGS(self.views.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def objective() -> torch.Tensor:
            optimiser.zero_grad()
            loss = self.losses(pooled, codes).mean() + self.penalty(pooled.shape[1])
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimiser.step(objective)  # type: ignore[no-untyped-call]
