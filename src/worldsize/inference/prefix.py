"""What a model has read so far, for decoding token by token: with keys and values kept, or by reading all of it again.

Letters: N rows, T tokens read now, P tokens read before, H query heads, G key/value heads, D width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsize.config.schema import ModelConfig
from worldsize.inference.network import Cache, Network, Span
from worldsize.models.decoder import Attention, Block, Decoder, Rotation, rotate, rotation_angles
from worldsize.models.linear import linear


class CachedPrefix:
    """Our decoder with the keys and values of every block kept, in tensors made once."""

    def __init__(self, model: Decoder, longest: int) -> None:
        self.model, self.longest, self.num_read = model, longest, 0
        self._kept: list[tuple[Tensor, Tensor]] = []

    def read(self, tokens_NT: Tensor) -> Tensor:
        """Read more tokens; return logits_NV of what follows the last. The first call may hold many, later ones one."""
        model, first = self.model, self.num_read
        last = first + tokens_NT.shape[1]
        x_NTC = model.token_embedding(tokens_NT)
        rotation = None
        if model.position_embedding is not None:
            x_NTC = x_NTC + model.position_embedding(torch.arange(first, last, device=tokens_NT.device))
        else:
            cos_TD, sin_TD = rotation_angles(last, model.d_head, model.rope_theta, tokens_NT.device)
            rotation = (cos_TD[first:], sin_TD[first:])
        for index, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            x_NTC = x_NTC + self._attend(index, block.attention, block.attention_norm(x_NTC), rotation)
            x_NTC = x_NTC + block.feed_forward(block.feed_forward_norm(x_NTC))
        self.num_read = last
        head = model.token_embedding if model.head is None else model.head
        return linear(model.final_norm(x_NTC[:, -1]), head.weight)

    def _attend(self, index: int, attention: Attention, x_NTC: Tensor, rotation: Rotation | None) -> Tensor:
        q_NTHD, k_NTGD, v_NTGD = attention.core.heads(attention.qkv(x_NTC))
        if rotation is not None:
            q_NTHD, k_NTGD = rotate(q_NTHD, rotation), rotate(k_NTGD, rotation)
        first, last = self.num_read, self.num_read + x_NTC.shape[1]
        if index == len(self._kept):
            rows, _, heads, width = k_NTGD.shape
            keys, values = (x_NTC.new_zeros(rows, heads, self.longest, width) for _ in range(2))
            self._kept.append((keys, values))
        keys, values = self._kept[index]
        keys[:, :, first:last], values[:, :, first:last] = k_NTGD.transpose(1, 2), v_NTGD.transpose(1, 2)
        out_NHTD = F.scaled_dot_product_attention(
            q_NTHD.transpose(1, 2),
            keys[:, :, :last],
            values[:, :, :last],
            is_causal=first == 0 and last > 1,
            enable_gqa=q_NTHD.shape[2] != k_NTGD.shape[2],
        )
        out_NTC: Tensor = attention.out(out_NHTD.transpose(1, 2).flatten(2))
        return out_NTC

    def keep(self, rows_N: Tensor) -> None:
        """Go on with these rows, in this order."""
        count = self._kept[0][0].shape[0]
        if len(rows_N) == count and torch.equal(rows_N, torch.arange(count, device=rows_N.device)):
            return
        self._kept = [(keys[rows_N], values[rows_N]) for keys, values in self._kept]


class NetworkPrefix:
    """A packed decoder with the keys and values of every block kept."""

    def __init__(self, network: Network, model: ModelConfig, longest: int) -> None:
        self.network, self.model, self.longest, self.num_read = network, model, longest, 0
        self._cache: Cache | None = None

    def read(self, tokens_NT: Tensor) -> Tensor:
        """Read more tokens; return logits_NV of what follows the last. The first call may hold many, later ones one."""
        num_rows, num_tokens = tokens_NT.shape
        if self._cache is None:
            self._cache = Cache.empty(self.model, num_rows, self.longest)
        first, self.num_read = self.num_read, self.num_read + num_tokens
        positions_NT = torch.arange(first, self.num_read).repeat(num_rows, 1)
        span = Span(torch.arange(num_rows), 0, positions_NT, self.num_read)
        return self.network.logits(self.network(tokens_NT, self._cache, span)[:, -1])

    def keep(self, rows_N: Tensor) -> None:
        """Go on with these rows, in this order."""
        assert self._cache is not None
        if torch.equal(rows_N, torch.arange(self._cache.num_slots)):
            return
        keys, values = ([kept[rows_N] for kept in side] for side in (self._cache.keys_SGTD, self._cache.values_SGTD))
        self._cache = Cache(keys, values)


class ReadPrefix:
    """Any model that maps tokens to logits, which reads the whole prefix for each token."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._tokens_NP: Tensor | None = None

    def read(self, tokens_NT: Tensor) -> Tensor:
        """Read more tokens; return logits_NV of what follows the last."""
        read = tokens_NT if self._tokens_NP is None else torch.cat((self._tokens_NP, tokens_NT), dim=1)
        self._tokens_NP = read
        logits_NV: Tensor = self.model(read)[:, -1]
        return logits_NV

    def keep(self, rows_N: Tensor) -> None:
        """Go on with these rows, in this order."""
        assert self._tokens_NP is not None
        self._tokens_NP = self._tokens_NP[rows_N]
