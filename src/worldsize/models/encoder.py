"""A bidirectional encoder that gives one class to a text: the decoder's blocks, every real token seeing every other.

Letters: B samples, T positions, C width of the residual stream, K classes. Parameters are the decoder's (decoder.py),
its output head replaced by `head.weight` (K, C) and `head.bias` (K).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsize.config.schema import ModelConfig
from worldsize.models.cost import dims_of, num_classes
from worldsize.models.decoder import Block, make_norm, rotation_angles
from worldsize.models.linear import Linear


class Encoder(nn.Module):
    """Token ids in, logits of the classes out. Pre-norm residual blocks."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        dims = dims_of(model)
        self.context_length = dims.context_length
        self.d_head = dims.d_head
        self.rope_theta = model.rope_theta
        self.dropout = model.dropout
        self.pooling = model.pooling
        self.token_embedding = nn.Embedding(dims.vocab_size, dims.d_model)
        learned = model.positions == "learned"
        self.position_embedding = nn.Embedding(dims.context_length, dims.d_model) if learned else None
        self.blocks = nn.ModuleList(Block(model) for _ in range(dims.num_layers))
        self.final_norm = make_norm(model)
        self.head = Linear(dims.d_model, num_classes(model), bias=True)

    def forward(self, tokens_BT: Tensor, segments_BT: Tensor) -> Tensor:
        """Return logits_BK; `segments_BT` is 0 at what no token sees. Raises ValueError beyond the context."""
        length = tokens_BT.shape[1]
        if length > self.context_length:
            raise ValueError(f"{length} tokens do not fit the model's context of {self.context_length}")
        seen_BT = segments_BT > 0
        mask_B11T = seen_BT[:, None, None, :]
        x_BTC = self.token_embedding(tokens_BT)
        rotation = None
        if self.position_embedding is not None:
            x_BTC = x_BTC + self.position_embedding.weight[:length]
        else:
            dtype = torch.promote_types(x_BTC.dtype, torch.float32)
            rotation = rotation_angles(length, self.d_head, self.rope_theta, tokens_BT.device, dtype)
        x_BTC = F.dropout(x_BTC, self.dropout, self.training)
        for block in self.blocks:
            x_BTC = block(x_BTC, rotation, mask_B11T)
        x_BTC = self.final_norm(x_BTC)
        if self.pooling == "cls":
            return self.head(x_BTC[:, 0])  # type: ignore[no-any-return]
        weights_BT1 = seen_BT.unsqueeze(-1).to(x_BTC.dtype)
        return self.head((x_BTC * weights_BT1).sum(1) / weights_BT1.sum(1))  # type: ignore[no-any-return]
