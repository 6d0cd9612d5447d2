"""A bidirectional encoder that gives one class to a text: the decoder's blocks, every real token seeing every other.

Letters: B samples, T positions, C width of the residual stream, K classes. Parameters are the decoder's (decoder.py),
its output head replaced by `head.weight` (K, C) and `head.bias` (K).
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsize.config.schema import ModelConfig
from worldsize.models.cost import dims_of, num_classes
from worldsize.models.decoder import Trunk
from worldsize.models.linear import Linear


class Encoder(Trunk):
    """Token ids in, logits of the classes out."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        self.pooling = model.pooling
        self.head = Linear(dims_of(model).d_model, num_classes(model), bias=True)

    def forward(self, tokens_BT: Tensor, segments_BT: Tensor) -> Tensor:
        """Return logits_BK; `segments_BT` is 0 at what no token sees. Raises ValueError beyond the context."""
        x_BTC = self.through(self.blocks, self.embed(tokens_BT), self.mask(segments_BT))
        return self.logits(x_BTC, segments_BT)

    def embed(self, tokens_BT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
        """Return the residual stream x_BTC before the first block; one text a sample, so positions count it all."""
        return super().embed(tokens_BT)

    def mask(self, segments_BT: Tensor) -> Tensor:
        """Return mask_B11T: what every token sees."""
        return (segments_BT > 0)[:, None, None, :]

    def logits(self, x_BTC: Tensor, segments_BT: Tensor) -> Tensor:
        """Return logits_BK from the residual stream after the last block."""
        x_BTC = self.final_norm(x_BTC)
        if self.pooling == "cls":
            return self.head(x_BTC[:, 0])  # type: ignore[no-any-return]
        seen_BT1 = (segments_BT > 0).unsqueeze(-1)
        wide = torch.promote_types(x_BTC.dtype, torch.float32)
        mean_BC = (x_BTC * seen_BT1).sum(1, dtype=wide) / seen_BT1.sum(1)
        return self.head(mean_BC.to(x_BTC.dtype))  # type: ignore[no-any-return]
