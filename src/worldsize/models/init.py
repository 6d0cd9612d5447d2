"""Initial weights as a pure function of (seed, parameter name): the same in every layout and on every device.

The distributions are GPT-2's (Radford et al. 2019, section 2.3): matrices from a normal with standard deviation 0.02,
those that write into the residual stream scaled by 1/√(2L) for L blocks; biases 0; norm weights 1.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

STD = 0.02
RESIDUAL_WRITERS = ("attention.out.weight", "feed_forward.down.weight")


def initialise(module: nn.Module, seed: int, num_layers: int) -> None:
    """Fill every parameter in place, whatever its device. Same seed and name, same values."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(initial_value(name, parameter.shape, seed, num_layers))


def initial_value(name: str, shape: torch.Size | tuple[int, ...], seed: int, num_layers: int) -> Tensor:
    """Return one parameter's initial value, in fp32 on the CPU."""
    if name.endswith("bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    std = STD / math.sqrt(2 * num_layers) if name.endswith(RESIDUAL_WRITERS) else STD
    generator = torch.Generator().manual_seed(name_seed(seed, name))
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def name_seed(seed: int, name: str) -> int:
    """Return a 63-bit seed for one parameter, the same on every machine and Python (unlike `hash`)."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
