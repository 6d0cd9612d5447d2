"""A digest of a model's weights, equal on two ranks only if every bit is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def weights_checksum(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """Return a hex digest of all (name, whole tensor), in whatever order. Copies them to the host; synchronises."""
    digests = {}
    for name, tensor in parameters:
        digest = hashlib.blake2b(name.encode(), digest_size=16)
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        digests[name] = digest.digest()
    return hashlib.blake2b(b"".join(digests[name] for name in sorted(digests)), digest_size=8).hexdigest()
