"""Arithmetic of a run: autocast over fp32 weights, loss scaling for fp16, tf32 matmuls."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
MATMUL_DTYPE = {"fp32": torch.float32, "tf32": torch.float32, **AUTOCAST}
"""The dtype that matrix products of a precision take in."""


class Precision:
    """How forward runs and how the loss is scaled, for one of 'fp32', 'tf32', 'bf16', 'fp16'."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self._device_type = device.type
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward and loss."""
        if self.name not in AUTOCAST:
            return nullcontext()
        return torch.autocast(self._device_type, dtype=AUTOCAST[self.name])
