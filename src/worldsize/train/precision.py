"""Arithmetic of a run: autocast over fp32 weights, loss scaling for fp16, tf32 matmuls, or fp64 throughout."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
MATMUL_DTYPE = {"fp32": torch.float32, "tf32": torch.float32, "fp64": torch.float64, **AUTOCAST}
"""The dtype that matrix products of a precision take in."""


LONGEST_PLAIN = 512
"""Up to this many positions a CPU computes bf16 attention faster as plain products of all T² scores than in the tiles
of its fused kernel: 12 % of a step at width 384 and 256 positions, on one AVX-512 core."""


def in_precision(model: nn.Module, precision: str) -> nn.Module:
    """Return the model with the weights that a precision keeps: float64 for fp64, float32 as they are for every other.

    Called before a strategy takes the model, so that gradients, moments and collectives are of the same dtype.
    """
    return model.double() if precision == "fp64" else model


class Precision:
    """How forward runs and how the loss is scaled, for one of 'fp32', 'tf32', 'bf16', 'fp16', 'fp64'.

    Sets torch's process-wide switches for matrix products and attention, which hold in backward too.
    """

    def __init__(self, name: str, device: torch.device, context_length: int) -> None:
        self.name = name
        self.sum_dtype = torch.float64 if name == "fp64" else torch.float32
        """Of sums of losses."""
        self._device_type = device.type
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        plain_attention = name == "bf16" and device.type == "cpu" and context_length <= LONGEST_PLAIN
        # Both hold for the CPU too, their module's name notwithstanding.
        torch.backends.cuda.enable_flash_sdp(not plain_attention)
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(plain_attention)

    def forward(self) -> AbstractContextManager[object]:
        """Return the context for forward and loss."""
        if self.name not in AUTOCAST:
            return nullcontext()
        return torch.autocast(self._device_type, dtype=AUTOCAST[self.name])

    def tell(self, *, overflowed: bool) -> None:
        """Adapt the loss scale to a step that an engine took, or left out, by itself: as `scaler.update` would."""
        kept = self.scaler.state_dict()
        num_steps = 0 if overflowed else int(kept["_growth_tracker"]) + 1
        if overflowed:
            kept["scale"] *= kept["backoff_factor"]
        elif num_steps == kept["growth_interval"]:
            kept["scale"] *= kept["growth_factor"]
            num_steps = 0
        self.scaler.load_state_dict(kept | {"_growth_tracker": num_steps})


class Autocasting(nn.Module):
    """A module that enters its precision by itself, for an engine that switches off what was entered outside of it."""

    def __init__(self, module: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.module = module
        self._precision = precision

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """Return what the module makes of its inputs, under autocast."""
        with self._precision.forward():
            output: Tensor = self.module(*inputs)
        return output


class AgreeingScaler(torch.amp.GradScaler):
    """Scales fp16's losses on ranks that hold different parameters: all skip a step where one of them overflowed."""

    def __init__(self, device: torch.device, agree: Callable[[Tensor], None]) -> None:
        """`agree` replaces a tensor, 1 where this rank's gradient overflowed, by its maximum over the ranks."""
        super().__init__(device.type)
        self._agree = agree
        self.scale(torch.ones((), device=device))  # sets the scale up, also on ranks that never have a loss

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Unscale this rank's gradients and agree on whether any overflowed. A collective; call it before `step`."""
        super().unscale_(optimizer)
        for found_inf in self._found_inf_per_device(optimizer).values():
            self._agree(found_inf)
