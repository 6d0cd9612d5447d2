"""A digest of a model's weights, equal on two ranks only if every bit is."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


@torch.no_grad()
def weights_checksum(model: nn.Module) -> str:
    """Return a hex digest of all parameters' names and bytes. Copies them to the host; synchronises the device."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
