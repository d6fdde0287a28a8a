"""Linear layers in float8: about twice the arithmetic rate of bfloat16 on GPUs that have it.

Weights are rounded to float8 (e4m3) once, inputs as they come, each with one scale a row: a row's largest value becomes
448, the largest that e4m3 holds. Products are summed in float32.
"""

from __future__ import annotations

from scstore.errors import MissingExtraError, ModelError

try:
    import torch
    from torch import nn
except ImportError as error:
    needs = "Running a language model"
    raise MissingExtraError(needs, "extract") from error

__all__ = ["Float8Linear", "check_float8", "use_float8"]

LARGEST = 448.0
MULTIPLE = 16
"""Rows and columns that the matrix units take at a time."""


class Float8Linear(nn.Module):
    """A frozen linear layer whose product is taken in float8.

    Parameters
    ----------
    linear
        The layer it stands for; its bias is kept as it is.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = _rounded(linear.weight.detach())
        self.weight: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.T.contiguous())
        self.bias = linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``(..., in) → (..., out)``, in the precision of the inputs."""
        rows, scale = _rounded(inputs.reshape(-1, inputs.shape[-1]))
        product = torch._scaled_mm(  # torch's only name for it
            rows, self.weight.t(), scale_a=scale, scale_b=self.scale, out_dtype=torch.bfloat16, use_fast_accum=False
        )
        product = product.to(inputs.dtype).reshape(*inputs.shape[:-1], -1)
        return product if self.bias is None else product + self.bias


def _rounded(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in float8 and the scale of each, ``(n, d)`` and ``(n, 1) float32``."""
    scale = (rows.abs().amax(dim=1, keepdim=True).float() / LARGEST).clamp(min=1e-12)
    return (rows.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale


def check_float8(device: torch.device) -> None:
    """Refuse float8 where the hardware has none.

    Raises
    ------
    ModelError
        Saying what is needed.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9):
        return
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"the device {device}"
    msg = (
        f"--precision float8: {what} has no float8 arithmetic. It takes an NVIDIA GPU of the Ada, Hopper or a later "
        "generation (L4, L40, H100, H200, B200). Leave the option out."
    )
    raise ModelError(msg)


def use_float8(blocks: nn.Module) -> int:
    """Replace the linear layers of transformer blocks, in place, except those whose shape the hardware cannot take.

    Returns
    -------
    int
        How many were replaced.
    """
    replaced = 0
    for module in list(blocks.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and not (child.in_features % MULTIPLE or child.out_features % MULTIPLE):
                setattr(module, name, Float8Linear(child))
                replaced += 1
    return replaced
