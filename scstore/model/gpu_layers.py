"""Layers as a GPU runs them best: decoder blocks compiled into few kernels, and matrix products in float8."""

from typing import Any

import torch
from torch import nn

from scstore.progress import Reporter

LARGEST = float(torch.finfo(torch.float8_e4m3fn).max)

# Cells and positions that layers are compiled on. They serve other numbers too, but that one cell makes code of its
# own, and what is first seen decides how sums are split: so it is the same in every run.
SHAPES = ((4, 1024), (1, 1024))


class Float8Linear(nn.Module):
    """A linear layer in float8: each position, and each row of the weights, is divided by its own largest value."""

    weight: torch.Tensor
    scale: torch.Tensor
    one: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = _scaled(linear.weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.T.contiguous())
        self.register_buffer("one", torch.ones((), dtype=torch.float32, device=weight.device))
        self.bias = linear.bias
        device = weight.device
        self.scales_inside = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (9, 0)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        rows, scale = _scaled(hidden.flatten(0, -2))
        a, b = (scale, self.scale) if self.scales_inside else (self.one, self.one)
        out = torch._scaled_mm(rows, self.weight.T, scale_a=a, scale_b=b, out_dtype=hidden.dtype, use_fast_accum=True)
        if not self.scales_inside:  # GPUs before Hopper scale whole matrices alone
            out = out * scale * self.scale
        out = out if self.bias is None else out + self.bias
        return out.to(hidden.dtype).view(*hidden.shape[:-1], -1)


def _scaled(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows ``(n, d)`` in float8, and what each was divided by, ``(n, 1) float32``."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (rows / scale).to(torch.float8_e4m3fn), scale


def to_float8(layers: nn.ModuleList, device: torch.device) -> None:
    """Put every linear layer of the blocks into float8, one at a time, so that the device holds one that is not."""
    for parent in [module for layer in layers for module in layer.modules()]:
        for name, linear in parent.named_children():
            if isinstance(linear, nn.Linear):
                setattr(parent, name, Float8Linear(linear.to(device)))


def compile_layers(model: Any, layers: nn.ModuleList, progress: Reporter) -> None:
    """Compile a decoder's blocks, all by the same code; where that fails they stay as they are, and it is told."""
    progress.note("compiling the model's layers, once: about a quarter of a minute")
    try:
        for layer in layers:
            compiled: Any = torch.compile(layer.forward, dynamic=True)
            layer.forward = compiled
        with torch.inference_mode():
            for shape in SHAPES:
                words = model.get_input_embeddings().weight
                inputs = torch.zeros(*shape, words.shape[1], device=words.device, dtype=words.dtype)
                model(inputs_embeds=inputs, use_cache=False)
    except Exception as error:  # noqa: BLE001  # a compiler that is not there or fails is no reason not to run
        for layer in layers:
            layer.__dict__.pop("forward", None)
        why = (str(error).splitlines() or [type(error).__name__])[0]
        progress.warn(f"the model's layers could not be compiled, so they run at about four fifths of the speed: {why}")
