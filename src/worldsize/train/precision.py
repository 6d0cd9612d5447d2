"""Arithmetic of a run: autocast over fp32 weights, loss scaling for fp16, tf32 matmuls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
MATMUL_DTYPE = {"fp32": torch.float32, "tf32": torch.float32, **AUTOCAST}
"""The dtype that matrix products of a precision take in."""


LONGEST_PLAIN = 512
"""Up to this many positions a CPU computes bf16 attention faster as plain products of all T² scores than in the tiles
of its fused kernel: 12 % of a step at width 384 and 256 positions, on one AVX-512 core."""


class Precision:
    """How forward runs and how the loss is scaled, for one of 'fp32', 'tf32', 'bf16', 'fp16'."""

    def __init__(self, name: str, device: torch.device, context_length: int) -> None:
        self.name = name
        self._device_type = device.type
        self._plain_attention = name == "bf16" and device.type == "cpu" and context_length <= LONGEST_PLAIN
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        if self._plain_attention:
            torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # of the CPU too, its name notwithstanding

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Compute forward and loss in this precision, and attention by the kernel that suits it."""
        with ExitStack() as stack:
            if self.name in AUTOCAST:
                stack.enter_context(torch.autocast(self._device_type, dtype=AUTOCAST[self.name]))
            if self._plain_attention:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield
