"""The frozen forward pass and what is read from it.

Hidden states are pooled by hooks while the pass runs, so that no more than one layer of them is ever kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scstore.backbone.layout import Layout
from scstore.errors import MissingExtraError
from scstore.tokens.batches import Batch

try:
    import torch
    from torch.nn.functional import embedding
except ImportError as error:
    needs = "Running a language model"
    raise MissingExtraError(needs, "extract") from error

if TYPE_CHECKING:
    from scstore.backbone.model import Backbone

__all__ = ["Readout"]


class Readout:
    """Runs batches of cells through a frozen model and pools the hidden states of some layers.

    Parameters
    ----------
    backbone
        The frozen model, loaded at least as deep as the deepest layer.
    layout
        What stands around the genes.
    gene_inputs
        ``(n_genes, width) float32``: input vectors of the genes, in gene-table order.
    layers
        Numbers of the layers to read, 1 for the first block. The last layer of the whole model is read after its final
        norm, the others before it, as transformers counts them.
    multiply
        Scale each gene's input vector with its expression value.
    """

    def __init__(
        self,
        backbone: Backbone,
        layout: Layout,
        gene_inputs: NDArray[np.float32],
        *,
        layers: tuple[int, ...],
        multiply: bool = False,
    ) -> None:
        self.backbone = backbone
        self.layers = layers
        self.multiply = multiply
        genes = torch.from_numpy(np.ascontiguousarray(gene_inputs)).to(backbone.device, backbone.dtype)
        padding = torch.zeros(1, genes.shape[1], device=backbone.device, dtype=backbone.dtype)
        self._inputs = torch.cat([padding, layout.embeddings(backbone), genes])
        self._overhead = layout.frame.overhead

    @torch.inference_mode()
    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Forward pass of one batch.

        Returns
        -------
        ``(n_layers, n_poolings, B, width) float32``
            In the order of ``layers`` and of the poolings the batch was assembled for.
        """
        device = self.backbone.device
        inputs = embedding(torch.from_numpy(batch.slots).to(device), self._inputs)
        if self.multiply:
            scale = torch.from_numpy(batch.scale).to(device, inputs.dtype)
            inputs = inputs * torch.where(scale > 0, scale, 1).unsqueeze(2)
        pooling = torch.from_numpy(batch.pooling).to(device)
        pooled: dict[int, torch.Tensor] = {}
        with self._reading(pooled, pooling):
            if self.backbone.files.is_decoder:
                # right padding: causal attention never lets a real position see a padded one, so no mask is needed
                self.backbone.model(inputs_embeds=inputs, use_cache=False)
            else:
                self.backbone.model(inputs_embeds=inputs, attention_mask=_mask(batch, device))
        return torch.stack([pooled[layer] for layer in self.layers]).transpose(1, 2).cpu().numpy()

    @contextmanager
    def _reading(self, pooled: dict[int, torch.Tensor], pooling: torch.Tensor) -> Iterator[None]:
        def reader(layer: int) -> Any:
            def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
                hidden = output[0] if isinstance(output, tuple) else output
                # in float32: half-precision sums over thousands of positions would lose digits
                pooled[layer] = torch.bmm(pooling, hidden.float())

            return hook

        handles = [self._module(layer).register_forward_hook(reader(layer)) for layer in self.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _module(self, layer: int) -> torch.nn.Module:
        if self.backbone.files.is_decoder and layer == self.backbone.files.n_layers:
            return self.backbone.model.norm  # type: ignore[return-value]
        return self.backbone.layers[layer - 1]


def _mask(batch: Batch, device: torch.device) -> torch.Tensor | None:
    if (batch.lengths == batch.slots.shape[1]).all():
        return None
    mask = np.arange(batch.slots.shape[1])[None, :] < batch.lengths[:, None]
    return torch.from_numpy(mask.astype(np.int64)).to(device)
