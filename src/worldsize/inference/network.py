"""The decoder for inference: plain tensors as buffers, weights packed by a back-end, a static cache of keys and values.

Letters as in models/decoder.py, and S rows (slots) of the cache, R = H/G queries that share a key, N positions of the
cache that are looked at. One function serves every use: a whole prompt, a chunk of one, and one token a row with a
position of its own (decoding, alone or in a running batch).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsize.config.schema import ModelConfig
from worldsize.inference import kernels
from worldsize.inference.matrix import Matrix
from worldsize.inference.packing import Packed, ready
from worldsize.models.cost import Dims, block_prefixes, dims_of
from worldsize.models.decoder import Rotation, rotate, rotation_angles


@dataclass(frozen=True)
class Cache:
    """Keys and values of every position so far: one buffer a block for each, written in place."""

    keys_SGTD: list[Tensor]
    values_SGTD: list[Tensor]

    @classmethod
    def empty(cls, model: ModelConfig, num_slots: int, length: int, device: torch.device | str = "cpu") -> Cache:
        dims = dims_of(model)
        shape = (num_slots, dims.num_kv_heads, length, dims.d_head)
        keys = [torch.zeros(shape, device=device) for _ in range(dims.num_layers)]
        return cls(keys, [torch.zeros_like(key) for key in keys])

    @property
    def length(self) -> int:
        return self.keys_SGTD[0].shape[2]

    @property
    def num_slots(self) -> int:
        return self.keys_SGTD[0].shape[0]


@dataclass(frozen=True)
class Span:
    """Where a forward reads and writes the cache."""

    rows_B: Tensor
    """The slots: consecutive, so that reading them copies nothing."""
    first_row: int
    positions_BT: Tensor
    """Where each token stands in its row; a token sees its own position and those before it."""
    length: int
    """N: no position is beyond it."""


class Network(nn.Module):
    """Tokens and their positions in, logits out. Not trainable."""

    def __init__(self, model: ModelConfig, packed: Packed) -> None:
        super().__init__()
        dims = dims_of(model)
        weights = ready(packed)
        self.own_attention = kernels.why_not() is None
        """Whether decoding's attention is the compiled kernel's."""
        self.token_embedding = matrix_of(weights, "token_embedding")
        self.head = matrix_of(weights, "head") if "head.weight" in weights else self.token_embedding
        self.position_embedding = _optional(weights, "position_embedding.weight")
        self.blocks = nn.ModuleList(Block(model, dims, weights, prefix) for prefix in block_prefixes(model))
        self.final_norm = Norm(model, weights, "final_norm")
        rotary = model.positions == "rotary"
        angles = rotation_angles(dims.context_length, dims.d_head, model.rope_theta, torch.device("cpu"))
        self.cos_TD, self.sin_TD = (nn.Buffer(table) if rotary else None for table in angles)

    def forward(self, tokens_BT: Tensor, cache: Cache, span: Span) -> Tensor:
        """Return the normed output of the last block, x_BTC, and write keys and values into the cache."""
        x_BTC = self.token_embedding.embed(tokens_BT)
        rotation = None
        if self.position_embedding is not None:
            x_BTC = x_BTC + self.position_embedding[span.positions_BT]
        elif self.cos_TD is not None and self.sin_TD is not None:
            rotation = self.cos_TD[span.positions_BT], self.sin_TD[span.positions_BT]
        seen_BTN = None
        if not (self.own_attention and tokens_BT.shape[1] == 1):
            seen_BTN = torch.arange(span.length, device=x_BTC.device) <= span.positions_BT.unsqueeze(-1)
        for block, keys_SGTD, values_SGTD in zip(self.blocks, cache.keys_SGTD, cache.values_SGTD, strict=True):
            x_BTC = block(x_BTC, keys_SGTD, values_SGTD, span, seen_BTN, rotation)
        normed_BTC: Tensor = self.final_norm(x_BTC)
        return normed_BTC

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of normed outputs: (..., C) → (..., V)."""
        return self.head.linear(x)


class Block(nn.Module):
    """Attention over the cache, then feed-forward, each normed on the way in and added to the residual stream."""

    def __init__(self, model: ModelConfig, dims: Dims, weights: Packed, prefix: str) -> None:
        super().__init__()
        self.head_counts = [dims.num_heads, dims.num_kv_heads, dims.num_kv_heads]
        self.d_head = dims.d_head
        self.gated = model.activation == "swiglu"
        self.attention_norm = Norm(model, weights, f"{prefix}.attention_norm")
        self.qkv = PackedLinear(weights, f"{prefix}.attention.qkv")
        self.out = PackedLinear(weights, f"{prefix}.attention.out")
        self.feed_forward_norm = Norm(model, weights, f"{prefix}.feed_forward_norm")
        self.up = PackedLinear(weights, f"{prefix}.feed_forward.up")
        self.down = PackedLinear(weights, f"{prefix}.feed_forward.down")

    def forward(
        self,
        x_BTC: Tensor,
        keys_SGTD: Tensor,
        values_SGTD: Tensor,
        span: Span,
        seen_BTN: Tensor | None,
        rotation: Rotation | None,
    ) -> Tensor:
        qkv_BTHD = self.qkv(self.attention_norm(x_BTC)).unflatten(-1, (-1, self.d_head))
        q_BTHD, k_BTGD, v_BTGD = qkv_BTHD.split(self.head_counts, dim=2)
        if rotation is not None:
            q_BTHD, k_BTGD = rotate(q_BTHD, rotation), rotate(k_BTGD, rotation)
        at = (span.rows_B.unsqueeze(1), slice(None), span.positions_BT)
        keys_SGTD[at], values_SGTD[at] = k_BTGD, v_BTGD
        if seen_BTN is None:
            attended_BC: Tensor = torch.ops.worldsize_kernels.attend(
                q_BTHD.squeeze(1), keys_SGTD, values_SGTD, span.positions_BT.squeeze(1), span.first_row
            )
            attended_BTC = attended_BC.unsqueeze(1)
        else:
            rows = slice(span.first_row, span.first_row + x_BTC.shape[0])
            read = (rows, slice(None), slice(None, span.length))
            attended_BTC = attend(q_BTHD, keys_SGTD[read], values_SGTD[read], seen_BTN)
        x_BTC = x_BTC + self.out(attended_BTC)
        fed_BTC: Tensor = self.down(self._activated(self.up(self.feed_forward_norm(x_BTC))))
        return x_BTC + fed_BTC

    def _activated(self, up: Tensor) -> Tensor:
        if not self.gated:
            return F.gelu(up, approximate="tanh")
        gate_BTF, value_BTF = up.chunk(2, dim=-1)
        return F.silu(gate_BTF) * value_BTF


def attend(q_BTHD: Tensor, keys_BGND: Tensor, values_BGND: Tensor, seen_BTN: Tensor) -> Tensor:
    """Return attended_BTC, each token over the positions that it may see.

    One token a row is two small products and a softmax; torch's fused kernel costs several times as much there.
    """
    num_rows, num_tokens, num_heads, d_head = q_BTHD.shape
    if num_tokens > 1:
        out_BHTD = F.scaled_dot_product_attention(
            q_BTHD.transpose(1, 2), keys_BGND, values_BGND, seen_BTN.unsqueeze(1), enable_gqa=True
        )
        out_BTC: Tensor = out_BHTD.transpose(1, 2).flatten(2)
        return out_BTC
    num_groups = keys_BGND.shape[1]
    q_BGRD = q_BTHD.reshape(num_rows, num_groups, num_heads // num_groups, d_head) * d_head**-0.5
    scores_BGRN = (q_BGRD @ keys_BGND.transpose(2, 3)).masked_fill(~seen_BTN.unsqueeze(1), float("-inf"))
    out_BGRD: Tensor = scores_BGRN.softmax(-1) @ values_BGND
    return out_BGRD.reshape(num_rows, 1, num_heads * d_head)


class PackedLinear(nn.Module):
    """A packed weight with its bias, which stays in fp32."""

    def __init__(self, weights: Packed, name: str) -> None:
        super().__init__()
        self.matrix = matrix_of(weights, name)
        self.bias_O = _optional(weights, f"{name}.bias")

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix.linear(x, self.bias_O)


class Norm(nn.Module):
    """Layer norm or RMSNorm in fp32."""

    def __init__(self, model: ModelConfig, weights: Packed, name: str) -> None:
        super().__init__()
        self.eps = model.norm_eps
        self.rms = model.norm == "rmsnorm"
        self.weight_C = _optional(weights, f"{name}.weight")
        self.bias_C = _optional(weights, f"{name}.bias")

    def forward(self, x: Tensor) -> Tensor:
        if self.rms:
            return F.rms_norm(x, x.shape[-1:], self.weight_C, self.eps)
        return F.layer_norm(x, x.shape[-1:], self.weight_C, self.bias_C, self.eps)


def matrix_of(weights: Packed, name: str) -> Matrix:
    """Return the matrix of a linear layer or an embedding."""
    matrix = weights[f"{name}.weight"]
    assert isinstance(matrix, Matrix)
    return matrix


def _optional(weights: Packed, name: str) -> nn.Buffer | None:
    """Return a copy of a weight that stays in fp32, or None where the model has none."""
    if name not in weights:
        return None
    tensor = weights[name]
    assert isinstance(tensor, Tensor)
    return nn.Buffer(tensor.clone())
