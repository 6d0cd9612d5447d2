"""One rank's stages of a pipeline: the parts of the model that it keeps, and how a micro batch passes them.

Letters: B samples of a micro batch, T positions, C width of the residual stream, V rows of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from worldsize.models.cost import ModelDescription
from worldsize.train.precision import Precision


class InParts(Protocol):
    """What a model must offer to be cut: its forward in parts."""

    def embed(self, tokens_BT: Tensor, segments_BT: Tensor | None) -> Tensor: ...
    def mask(self, segments_BT: Tensor | None) -> Tensor | None: ...
    def through(self, blocks: Sequence[nn.Module], x_BTC: Tensor, mask: Tensor | None) -> Tensor: ...
    def logits(self, x_BTC: Tensor, segments_BT: Tensor | None) -> Tensor: ...


class Stage(nn.Module):
    """Some consecutive blocks; the first stage embeds too, and the last ends in logits.

    The model stays where it is, and keeps the names; registered here are the stage's parameters alone, since the engine
    asks for them.
    """

    def __init__(
        self,
        model: nn.Module,
        parameter_names: Sequence[str],
        block_prefixes: Sequence[str],
        precision: Precision,
        *,
        is_first: bool,
        is_last: bool,
    ) -> None:
        super().__init__()
        self.own = nn.ParameterList(model.get_parameter(name) for name in parameter_names)
        parts = cast(InParts, model)
        # Bound methods and a tuple: held in any other way, the whole model would be registered as a part of the stage.
        self._embed, self._mask, self._through, self._logits = parts.embed, parts.mask, parts.through, parts.logits
        self._blocks = tuple(model.get_submodule(prefix) for prefix in block_prefixes)
        self._precision = precision
        self.is_first = is_first
        self.is_last = is_last
        self.segments_BT: Tensor | None = None
        """Of the next micro batch to go forward. Never sent: every rank of a pipeline has the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Take tokens_BT or x_BTC, return x_BTC or logits (BTV; BK of a classifier), under the precision's autocast."""
        segments_BT = self.segments_BT
        with self._precision.forward():
            if self.is_first:
                x = self._embed(x, segments_BT)
            x = self._through(self._blocks, x, self._mask(segments_BT))
            return self._logits(x, segments_BT) if self.is_last else x


def keep_only(model: nn.Module, names: Sequence[str], description: ModelDescription) -> None:
    """Drop all parameters but the named ones, in place, so that their memory is free; the names stay as they were.

    A module without any of its parameters left becomes None.
    """
    owners = {name.rpartition(".")[0] for name in names}
    kept = owners | {prefix for prefix in description.block_prefixes if any(o.startswith(prefix + ".") for o in owners)}
    outside = {name.rpartition(".")[0] for name in description.parameter_shapes if not _in_block(name, description)}
    for path in [*description.block_prefixes, *sorted(outside)]:
        if path not in kept:
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, None)


def _in_block(name: str, description: ModelDescription) -> bool:
    return any(name.startswith(prefix + ".") for prefix in description.block_prefixes)


def padded(tokens: Tensor, num_samples: int, fill: int) -> Tensor:
    """Return a micro batch with rows of `fill` appended up to `num_samples`: stages exchange tensors of one shape."""
    missing = num_samples - tokens.shape[0]
    if missing == 0:
        return tokens
    return torch.cat((tokens, tokens.new_full((missing, *tokens.shape[1:]), fill)))
