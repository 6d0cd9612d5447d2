"""Activation checkpointing: a block keeps only its input, and is computed again when backward reaches it.

Chen et al. 2016 (arXiv:1604.06174). Costs one more forward of every block a step; MFU does not count that work.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Make the named blocks recompute themselves in backward, with the random numbers that their forward drew.

    Replaces each block's `forward` on the instance alone: names of parameters and modules stay, and hooks
    (fully_shard's among them) run around the whole block, not again within the recomputation.
    """
    for prefix in prefixes:
        block = model.get_submodule(prefix)
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
