"""A projector with weights to learn (scInterpreter, arXiv 2402.12405), or a correction of the ``aligned`` one."""

import itertools
from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import linear, silu

from scstore.errors import DamagedError
from scstore.model.projector import AlignedMap

ROWS = 4096  # gene vectors that are projected at once


class TrainedProjector(nn.Module):
    """Gene vectors into input vectors of a language model, in float32; ``start`` is the closed form to start at."""

    def __init__(
        self, width_in: int, width_out: int, *, blocks: int = 0, start: AlignedMap | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.width_in, self.width_out, self.has_start = width_in, width_out, start is not None
        widths = [width_in] + [width_out] * (blocks + 1)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        initialise(self.layers, seed=seed)
        if start is None:
            return
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]
        for name, value in (
            ("centre", start.centre),
            ("whitening", start.whitening),
            ("start_weight", start.weight.T),
            ("start_bias", start.bias),
            ("norm", np.array([start.norm])),
        ):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)))

    def prepare(self, vectors: NDArray[np.float32]) -> torch.Tensor:
        """What :meth:`forward` takes of gene vectors ``(n, width_in)``, on the projector's device: once a gene."""
        device = self.layers[0].weight.device
        if not self.has_start:
            return torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32)).to(device)  # type: ignore[arg-type]
        start = {name: value.cpu().double().numpy() for name, value in self.named_buffers()}
        white = (vectors.astype(np.float64) - start["centre"]) @ start["whitening"]
        return torch.from_numpy(white.astype(np.float32)).to(device)  # type: ignore[arg-type]

    def forward(self, prepared: torch.Tensor) -> torch.Tensor:
        """``(n, width_out) float32`` of prepared gene vectors."""
        if not self.has_start:
            return self._learned(prepared)
        norm, bias = self.norm, self.start_bias
        # in units of an input vector's typical entry, and of rows of length about 1: one learning rate then suits
        # models and gene vectors of any width
        learned = self._learned(prepared / self.width_in**0.5) * (norm / self.width_out**0.5)
        moved = linear(prepared, self.start_weight, bias) + learned  # type: ignore[arg-type]
        scaled: torch.Tensor = moved * (norm / moved.norm(dim=1, keepdim=True).clamp_min(1e-12))
        return scaled

    def _learned(self, rows: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.layers[0](rows)
        for layer in list(self.layers)[1:]:
            hidden = layer(silu(hidden))
        return hidden

    @torch.inference_mode()
    def project(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(n, width_out) float32`` of gene vectors ``(n, width_in)``, some rows at a time."""
        blocks = [self(self.prepare(vectors[i : i + ROWS])).cpu().numpy() for i in range(0, len(vectors), ROWS)]
        return np.concatenate([np.zeros((0, self.width_out), dtype=np.float32), *blocks])

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        return {name: value.detach().cpu().numpy().copy() for name, value in self.state_dict().items()}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[np.float32]], *, width_in: int, width_out: int, blocks: int, start: str
    ) -> Self:
        """The projector from what :meth:`to_arrays` gave; DamagedError if the arrays do not fit its description."""
        square, flat = np.zeros((width_in, width_in)), np.zeros((width_in, width_out))
        zeros = AlignedMap(np.zeros(width_in), square, flat, np.zeros(width_out), 0.0)
        projector = cls(width_in, width_out, blocks=blocks, start=zeros if start == "aligned" else None)
        expected = {name: tuple(value.shape) for name, value in projector.state_dict().items()}
        found = {name: value.shape for name, value in arrays.items() if value.dtype == np.float32}
        if expected != found:
            wrong = sorted(name for name in expected.keys() | arrays.keys() if expected.get(name) != found.get(name))
            raise DamagedError(f"The projector's weights do not fit its shape: {', '.join(wrong)}. Restore a copy.")
        projector.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
        return projector


def initialise(layers: nn.Module, *, seed: int) -> None:
    """Draw the weights of linear layers as PyTorch does, uniform in ±1/√fan-in, from a seed of their own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers.modules():
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)
