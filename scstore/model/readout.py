"""The frozen forward pass and what is read from it.

Hidden states are pooled by hooks while the pass runs, so that no more than one layer of them is ever kept. Nothing
waits for the device between batches: pooled rows are gathered there and fetched once a shard.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scstore.errors import FaultError, MissingExtraError
from scstore.model.loading import Backbone
from scstore.model.prompt import Layout
from scstore.tokens.sequences import Batch

try:
    import torch
    from torch.nn.functional import embedding
except ImportError as error:
    raise MissingExtraError("Running a language model", "extract") from error


class Readout:
    """Runs cells through a frozen model and pools the hidden states of some layers, the last after its final norm."""

    def __init__(
        self,
        backbone: Backbone,
        layout: Layout,
        gene_inputs: NDArray[np.float32] | None,  # (n_genes, width); None where slots are the model's tokens
        *,
        layers: tuple[int, ...],
        multiply: bool = False,  # by each cell's expression
    ) -> None:
        self.backbone = backbone
        self.layers = layers
        self.multiply = multiply
        self._n_frame = layout.frame.first_gene_slot
        if gene_inputs is None:
            self._inputs = backbone.token_embeddings
            return
        device = backbone.input_device
        genes = torch.from_numpy(np.ascontiguousarray(gene_inputs)).to(device, backbone.dtype)
        padding = torch.zeros(1, genes.shape[1], device=device, dtype=backbone.dtype)
        # every input vector lives on the device, so that a cell costs the bus a few bytes a gene and not its vectors
        self._inputs = torch.cat([padding, layout.embeddings(backbone).to(device), genes])

    @torch.inference_mode()
    def run(self, batch: Batch) -> torch.Tensor:
        return self.pooled(batch, self._inputs)

    @property
    def frame_inputs(self) -> torch.Tensor:
        """``(first_gene_slot, width)``: input vectors of padding and of the tokens around the genes."""
        return self._inputs[: self._n_frame]

    def pooled(self, batch: Batch, table: torch.Tensor) -> torch.Tensor:
        """The same with other input vectors ``(n_slots, width)`` by slot, through which gradients may flow."""
        inputs = embedding(self._sent(batch.slots), table)
        if self.multiply:
            scale = self._sent(batch.scale).to(inputs.dtype)
            inputs = inputs * torch.where(scale > 0, scale, 1).unsqueeze(2)
        pooling = self._sent(batch.pooling)
        pooled: dict[int, torch.Tensor] = {}
        with self._reading(pooled, pooling):
            if self.backbone.files.is_decoder:
                # right padding: causal attention never lets a real position see a padded one, so no mask is needed
                self.backbone.model(inputs_embeds=inputs, use_cache=False)
            else:
                self.backbone.model(inputs_embeds=inputs, attention_mask=self._mask(batch))
        first = pooled[self.layers[0]].device
        return torch.stack([pooled[layer].to(first) for layer in self.layers]).transpose(1, 2)

    def gather(self, n_cells: int, n_poolings: int) -> "Gathered":
        return Gathered(self, n_cells, n_poolings)

    def _sent(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        device = self.backbone.input_device
        # from pinned memory the copy runs beside the computation
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

    def _mask(self, batch: Batch) -> torch.Tensor | None:
        if (batch.lengths == batch.slots.shape[1]).all():
            return None
        mask = np.arange(batch.slots.shape[1])[None, :] < batch.lengths[:, None]
        return self._sent(mask.astype(np.int64))

    @contextmanager
    def _reading(self, pooled: dict[int, torch.Tensor], pooling: torch.Tensor) -> Iterator[None]:
        def reader(layer: int) -> Any:
            def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
                hidden = output[0] if isinstance(output, tuple) else output
                # in float32: half-precision sums over thousands of positions would lose digits
                pooled[layer] = torch.bmm(pooling.to(hidden.device), hidden.float())

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


class Gathered:
    """Pooled rows of a run of cells, gathered on the device batch by batch; ``halved`` counts batches run as two."""

    def __init__(self, readout: Readout, n_cells: int, n_poolings: int) -> None:
        self._readout = readout
        self._shape = (len(readout.layers), n_poolings, n_cells, readout.backbone.files.width)
        self._rows: torch.Tensor | None = None
        self.halved = 0

    def add(self, cells: NDArray[np.int64], assemble: Callable[[NDArray[np.int64]], Batch]) -> None:
        """Run cells ``(B,)`` that ``assemble`` lays out, in halves where memory does not suffice."""
        try:
            pooled = self._readout.run(assemble(cells))
        except torch.OutOfMemoryError as error:
            if len(cells) == 1:
                cure = "Use fewer genes (top_genes=, panel=), fewer layers=, or a device with more memory."
                raise FaultError(f"The device's memory does not hold a single cell's pass. {cure}") from error
            pooled = None
        if pooled is None:  # outside the handler, which would keep the failed pass's tensors alive
            torch.cuda.empty_cache()
            self.halved += 1
            for half in (cells[: len(cells) // 2], cells[len(cells) // 2 :]):
                self.add(half, assemble)
            return
        if self._rows is None:
            self._rows = torch.zeros(self._shape, device=pooled.device)
        self._rows[:, :, torch.from_numpy(cells).to(pooled.device)] = pooled

    def rows(self) -> NDArray[np.float32]:
        """``(n_layers, n_poolings, n_cells, width) float32`` in host memory; zeros for cells that were not added."""
        if self._rows is None:
            return np.zeros(self._shape, dtype=np.float32)
        return self._rows.cpu().numpy()
