"""A decoder-only transformer: GPT-2's family by default, Llama's shape by configuration.

Letters in names: B samples, T positions, C width of the residual stream, H query heads, G key/value heads (G divides
H), D width of a head (C = H·D), F width of the feed-forward layer, V rows of the vocabulary.

Parameters, and their shapes (linear weights are (out, in)):
    token_embedding.weight              (V, C)          also the output head, when tied
    position_embedding.weight           (T, C)          learned positions only
    blocks.i.attention_norm.weight      (C)
    blocks.i.attention.qkv.weight       ((H+2G)·D, C)   queries, keys and values, in this order
    blocks.i.attention.out.weight       (C, C)
    blocks.i.feed_forward_norm.weight   (C)
    blocks.i.feed_forward.up.weight     (F, C)          swiglu: (2F, C), gate first, then value
    blocks.i.feed_forward.down.weight   (C, F)
    final_norm.weight                   (C)
    head.weight                         (V, C)          untied head only
and a `.bias` beside each linear's and layer norm's weight, the head's excepted, where `bias` is set.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsize.config.schema import ModelConfig
from worldsize.models.cost import dims_of
from worldsize.models.linear import Linear, linear
from worldsize.models.segments import own_past, own_positions


class Trunk(nn.Module):
    """What every model of ours has before its head: tokens become the residual stream, which passes pre-norm blocks.

    Its forward is in parts, so that a model can be cut between blocks. No buffer of any kind.
    """

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        dims = dims_of(model)
        self.context_length = dims.context_length
        self.d_head = dims.d_head
        self.rope_theta = model.rope_theta
        self.dropout = model.dropout
        self.rotary = model.positions == "rotary"
        self.token_embedding = nn.Embedding(dims.vocab_size, dims.d_model)
        self.position_embedding = None if self.rotary else nn.Embedding(dims.context_length, dims.d_model)
        self.blocks = nn.ModuleList(Block(model) for _ in range(dims.num_layers))
        self.final_norm = make_norm(model)

    def embed(self, tokens_BT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
        """Return the residual stream x_BTC before the first block; positions begin anew with each segment.

        Raises ValueError for more positions than the context holds.
        """
        length = tokens_BT.shape[1]
        if length > self.context_length:
            raise ValueError(f"{length} tokens do not fit the model's context of {self.context_length}")
        x_BTC = self.token_embedding(tokens_BT)
        if self.position_embedding is not None:
            each_T = torch.arange(length, device=tokens_BT.device)
            positions = each_T if segments_BT is None else own_positions(segments_BT)
            x_BTC = x_BTC + self.position_embedding(positions)
        return F.dropout(x_BTC, self.dropout, self.training)

    def through(self, blocks: Iterable[nn.Module], x_BTC: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the residual stream after some of the blocks, which follow each other."""
        rotation = None
        if self.rotary:  # relative, so that texts in one sample need no positions of their own
            dtype = torch.promote_types(x_BTC.dtype, torch.float32)
            rotation = rotation_angles(self.context_length, self.d_head, self.rope_theta, x_BTC.device, dtype)
        for block in blocks:
            x_BTC = block(x_BTC, rotation, mask)
        return x_BTC


class Decoder(Trunk):
    """Token ids in, next-token logits out."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        dims = dims_of(model)
        self.head = None if model.tied_head else Linear(dims.d_model, dims.vocab_size, bias=False)

    def forward(self, tokens_BT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
        """Return logits_BTV. Where `segments_BT` numbers the texts of a sample, each sees itself alone.

        Raises ValueError for more positions than the context holds.
        """
        x_BTC = self.through(self.blocks, self.embed(tokens_BT, segments_BT), self.mask(segments_BT))
        return self.logits(x_BTC)

    def mask(self, segments_BT: Tensor | None) -> Tensor | None:
        """Return who sees whom, mask_B1TT; None: each token all before it."""
        return None if segments_BT is None else own_past(segments_BT)

    def logits(self, x_BTC: Tensor, segments_BT: Tensor | None = None) -> Tensor:
        """Return logits_BTV from the residual stream after the last block."""
        head = self.token_embedding if self.head is None else self.head
        return linear(self.final_norm(x_BTC), head.weight)


class Block(nn.Module):
    """Attention, then feed-forward, each normed on the way in and added to the residual stream."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.dropout = model.dropout
        self.attention_norm = make_norm(model)
        self.attention = Attention(model)
        self.feed_forward_norm = make_norm(model)
        self.feed_forward = GatedFeedForward(model) if model.activation == "swiglu" else FeedForward(model)

    def forward(self, x_BTC: Tensor, rotation: Rotation | None, mask: Tensor | None = None) -> Tensor:
        attended_BTC = self.attention(self.attention_norm(x_BTC), rotation, mask)
        x_BTC = x_BTC + F.dropout(attended_BTC, self.dropout, self.training)
        fed_BTC = self.feed_forward(self.feed_forward_norm(x_BTC))
        return x_BTC + F.dropout(fed_BTC, self.dropout, self.training)


class Attention(nn.Module):
    """Self-attention, causal unless a mask says who sees whom; G < H groups of queries share their keys and values
    (Ainslie et al. 2023)."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        dims = dims_of(model)
        self.qkv = Linear(dims.d_model, sum(dims.qkv_sizes), bias=model.bias)
        self.core = AttentionCore(model)
        self.out = Linear(dims.d_model, dims.d_model, bias=model.bias)

    def forward(self, x_BTC: Tensor, rotation: Rotation | None, mask: Tensor | None = None) -> Tensor:
        """`mask`: True where a query (second to last dimension) sees a key (last), to be broadcast to (B, H, T, T)."""
        out_BTC: Tensor = self.out(self.core(self.qkv(x_BTC), rotation, mask))
        return out_BTC


class AttentionCore(nn.Module):
    """What lies between attention's two linears; without parameters, for as many heads as its input holds."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        dims = dims_of(model)
        self.d_head = dims.d_head
        self.queries_per_key = dims.num_heads // dims.num_kv_heads
        self.dropout = model.dropout

    def forward(self, qkv_BTO: Tensor, rotation: Rotation | None, mask: Tensor | None = None) -> Tensor:
        """Return the values that each position attends to, (B, T, H·D), from its fused queries, keys and values."""
        q_BTHD, k_BTGD, v_BTGD = self.heads(qkv_BTO)
        if rotation is not None:
            q_BTHD, k_BTGD = rotate(q_BTHD, rotation), rotate(k_BTGD, rotation)
        out_BHTD = F.scaled_dot_product_attention(
            q_BTHD.transpose(1, 2),
            k_BTGD.transpose(1, 2),
            v_BTGD.transpose(1, 2),
            dropout_p=self.dropout if self.training else 0.0,
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=self.queries_per_key > 1,
        )
        return out_BHTD.transpose(1, 2).flatten(2)

    def heads(self, qkv_BTO: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, T, H, D), keys and values (B, T, G, D) of the heads that the fused output holds."""
        qkv_BTHD = torch.unflatten(qkv_BTO, -1, (-1, self.d_head))
        num_kv_heads = qkv_BTHD.shape[2] // (self.queries_per_key + 2)
        num_heads = [self.queries_per_key * num_kv_heads, num_kv_heads, num_kv_heads]
        q_BTHD, k_BTGD, v_BTGD = torch.split(qkv_BTHD, num_heads, dim=2)
        return q_BTHD, k_BTGD, v_BTGD


class FeedForward(nn.Module):
    """Two linears with GELU (tanh form, as in GPT-2) between."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        dims = dims_of(model)
        self.up = Linear(dims.d_model, dims.d_ff, bias=model.bias)
        self.down = Linear(dims.d_ff, dims.d_model, bias=model.bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        out_BTC: Tensor = self.down(F.gelu(self.up(x_BTC), approximate="tanh"))
        return out_BTC


class GatedFeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): the value is gated by SiLU before it is projected down."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        dims = dims_of(model)
        self.up = Linear(dims.d_model, 2 * dims.d_ff, bias=model.bias)
        self.down = Linear(dims.d_ff, dims.d_model, bias=model.bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        gate_BTF, value_BTF = self.up(x_BTC).chunk(2, dim=-1)
        out_BTC: Tensor = self.down(F.silu(gate_BTF) * value_BTF)
        return out_BTC


def make_norm(model: ModelConfig) -> nn.Module:
    if model.norm == "rmsnorm":
        return nn.RMSNorm(model.d_model, eps=model.norm_eps)
    return nn.LayerNorm(model.d_model, eps=model.norm_eps, bias=model.bias)


Rotation = tuple[Tensor, Tensor]
"""cos_TD and sin_TD of the rotary angles, in fp32 (in fp64 for an fp64 model)."""


def rotation_angles(
    length: int, d_head: int, theta: float, device: torch.device, dtype: torch.dtype = torch.float32
) -> Rotation:
    """Return cos_TD and sin_TD of the angle by which each pair of a head's features turns at each position.

    Pair i of D/2 turns by t·theta^(-2i/D) at position t (Su et al. 2021); feature i is paired with i + D/2.
    """
    exponents = torch.arange(0, d_head, 2, device=device, dtype=dtype) / d_head
    angles_TP = torch.outer(torch.arange(length, device=device, dtype=dtype), theta**-exponents)
    angles_TD = torch.cat((angles_TP, angles_TP), dim=-1)
    return angles_TD.cos(), angles_TD.sin()


def rotate(x_BTHD: Tensor, rotation: Rotation) -> Tensor:
    """Return the features turned by their position's angles, in x's own dtype; the angles may go on beyond x."""
    length = x_BTHD.shape[1]
    cos_T1D, sin_T1D = (table[..., :length, :].to(x_BTHD.dtype).unsqueeze(-2) for table in rotation)
    first, second = x_BTHD.chunk(2, dim=-1)
    return x_BTHD * cos_T1D + torch.cat((-second, first), dim=-1) * sin_T1D
