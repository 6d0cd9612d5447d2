"""Activation checkpointing: a part of the model keeps only its input, and is computed again when backward reaches it.

Whole blocks: Chen et al. 2016 (arXiv:1604.06174); one more forward of every block a step. Attention alone, between its
two linears: Korthikanti et al. 2022 (arXiv:2205.05198, section 5), whose scores take the most memory for the least
work. MFU counts neither's work.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import nn
from torch.utils.checkpoint import checkpoint

from worldsize.models.cost import ModelDescription


def recomputed_modules(what: str, model: ModelDescription) -> list[str]:
    """Return the modules that `train.activation_checkpointing` names: the blocks, their attention, or none."""
    match what:
        case "block":
            return list(model.block_prefixes)
        case "attention":
            if model.attention_core is None:
                raise ValueError("this model does not say where its attention is; use activation_checkpointing=block")
            return [f"{prefix}.{model.attention_core}" for prefix in model.block_prefixes]
        case _:
            return []


def checkpoint_modules(model: nn.Module, names: Sequence[str]) -> None:
    """Make the named modules recompute themselves in backward, with the random numbers that their forward drew.

    Replaces each one's `forward` on the instance alone: names of parameters and modules stay, and hooks
    (fully_shard's among them) run around the whole module, not again within the recomputation. What a pipeline stage
    lacks is passed over.
    """
    held = dict(model.named_modules())
    for module in (held[name] for name in names if name in held):
        module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)
