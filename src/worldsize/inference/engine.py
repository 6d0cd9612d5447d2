"""A network with its cache: prompts in by chunks, then one token a row and step. Single stream and running batch alike.

The cache has S slots, a row each. A row's tokens stand at positions 0, 1, 2, ... of its own; rows know nothing of each
other, so a request may join or leave a running batch between any two steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worldsize.errors import UserError
from worldsize.inference.arena import into_arena
from worldsize.inference.compiled import Graphs
from worldsize.inference.matrix import Matrix
from worldsize.inference.network import Cache, Network, Span
from worldsize.inference.open_model import OpenedModel
from worldsize.models.cost import dims_of

LENGTH_STEP = 64
"""Attention looks at the cache up to a multiple of this, so that few different shapes occur."""
PREFILL_CHUNK = 128
"""Tokens of a prompt that one forward takes in: longer is faster, shorter lets others go on sooner."""


class Engine:
    """Runs one model with `num_slots` rows of `length` positions each."""

    def __init__(
        self,
        opened: OpenedModel,
        *,
        method_name: str | None = None,
        num_slots: int = 1,
        length: int | None = None,
        chunk: int = PREFILL_CHUNK,
        compile_decoding: bool = False,
    ) -> None:
        """`compile_decoding`: decode by graphs of torch's compiler; the first step of each shape takes up to a minute.
        It needs a C++ compiler, and is without effect for a method that cannot be compiled.

        `length` unset is the model's whole context; `method_name` unset is what the model was quantized with, or
        fp32. Raises UserError for an unknown method, another than the model was quantized with,
        or a classifier."""
        if opened.model.kind == "encoder":
            raise UserError(f"{opened.path} is a classifier: it gives a class to a text, and predicts no tokens.")
        self.model = opened.model
        self.method_name = opened.method_or(method_name)
        self.network = Network(opened.model, opened.packed_as(method_name)).eval()
        into_arena(self.network)
        self.length = min(length or opened.model.context_length, opened.model.context_length)
        self.num_slots = num_slots
        self.chunk = chunk
        self.vocab_size = opened.tokenizer.vocab_size if opened.tokenizer else dims_of(opened.model).vocab_size
        """No token beyond the tokenizer's is ever chosen: the rows after it only round the embedding up."""
        self.cache = Cache.empty(opened.model, num_slots, self.length)
        self._rows_S = torch.arange(num_slots)
        compiles = all(module.compiles for module in self.network.modules() if isinstance(module, Matrix))
        graphs = compile_decoding and compiles
        self._graphs = Graphs(self.network, self.cache, self.vocab_size) if graphs else None

    @property
    def compiled(self) -> bool:
        """Whether decoding runs as graphs of torch's compiler."""
        return self._graphs is not None

    def num_rows(self, num_used: int) -> int:
        """Return how many rows a step computes when the first `num_used` are to be: more share a compiled graph."""
        return min(1 << (num_used - 1).bit_length(), self.num_slots) if self.compiled else num_used

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Tensor:
        """Take the next tokens of one row's prompt into the cache; return the logits_V after the last of them.

        They stand at positions `start` to `start + len(tokens)` of the row.
        """
        tokens_1T = torch.tensor([list(tokens)])
        positions_1T = torch.arange(start, start + len(tokens)).unsqueeze(0)
        span = Span(self._rows_S[slot : slot + 1], slot, positions_1T, self._seen(start + len(tokens)))
        x_1TC = self.network(tokens_1T, self.cache, span)
        return self.network.logits(x_1TC[:, -1])[0, : self.vocab_size]

    @torch.inference_mode()
    def decode(self, tokens_B: Tensor, positions_B: Tensor) -> Tensor:
        """Take one token into each of the first B rows, at a position of its own; return logits_BV.

        A row with nothing to do takes any token at the position that it will be given next: what is written there
        is written over.
        """
        rows_B = self._rows_S[: len(tokens_B)]
        last = int(positions_B.max()) + 1
        if self._graphs is not None:
            return self._graphs(tokens_B, positions_B, rows_B, self._bucket(last))
        span = Span(rows_B, 0, positions_B.unsqueeze(1), self._seen(last))
        x_B1C = self.network(tokens_B.unsqueeze(1), self.cache, span)
        return self.network.logits(x_B1C[:, 0])[:, : self.vocab_size]

    @torch.inference_mode()
    def greedy(self, tokens_B: Tensor, positions_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return each row's likeliest next token and the position where it will stand."""
        return self.decode(tokens_B, positions_B).argmax(-1), positions_B + 1

    @torch.inference_mode()
    def score(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits_BTV of whole windows, B ≤ S and T ≤ the cache's length; what the cache held is gone."""
        num_rows, num_tokens = tokens_BT.shape
        positions_BT = torch.arange(num_tokens).expand(num_rows, -1)
        span = Span(self._rows_S[:num_rows], 0, positions_BT, num_tokens)
        return self.network.logits(self.network(tokens_BT, self.cache, span))

    def _seen(self, length: int) -> int:
        """Return how much of the cache attention is given."""
        return min(-(-length // LENGTH_STEP) * LENGTH_STEP, self.length)

    def _bucket(self, length: int) -> int:
        """Return the same for a graph: doubling, so that there are few; the kernels' attention needs none of it."""
        if self.network.own_attention:
            return self.length
        bucket = LENGTH_STEP
        while bucket < length:
            bucket *= 2
        return min(bucket, self.length)
