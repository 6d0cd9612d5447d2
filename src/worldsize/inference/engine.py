"""A network with its cache: prompts in by chunks, then one token a row and step. Single stream and running batch alike.

The cache has S slots, a row each. A row's tokens stand at positions 0, 1, 2, ... of its own; rows know nothing of each
other, so a request may join or leave a running batch between any two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from worldsize.errors import UserError
from worldsize.inference.arena import into_arena
from worldsize.inference.methods import method
from worldsize.inference.network import Cache, Network, Span
from worldsize.inference.open_model import OpenedModel
from worldsize.inference.packing import pack

LENGTH_STEP = 64
"""Attention looks at the cache up to a multiple of this, so that few different shapes occur."""
PREFILL_CHUNK = 128
"""Tokens of a prompt that one forward takes in: longer is faster, shorter lets others go on sooner."""

MOST_GRAPHS = 128
"""Compiled graphs in one process, of all engines together."""

Decode = Callable[[Tensor, Tensor], Tensor]


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
        compiled: bool = False,
    ) -> None:
        """`length` unset is the model's whole context; `method_name` unset is what the model was quantized with, or
        fp32. Raises UserError for an unknown method, another than the model was quantized with, or a classifier.

        `compiled`: decoding runs as graphs of torch's compiler, one for each number of rows and length of cache that
        occurs, both rounded up to powers of two. Each takes seconds to make, the first time that it is needed.
        """
        if opened.model.kind == "encoder":
            raise UserError(f"{opened.path} is a classifier: it gives a class to a text, and predicts no tokens.")
        self.model = opened.model
        self.method_name = opened.method_or(method_name)
        packed = opened.packed or pack(opened.weights, opened.model, method(self.method_name))
        self.network = Network(opened.model, packed).eval()
        into_arena(self.network)
        self.length = min(length or opened.model.context_length, opened.model.context_length)
        self.num_slots = num_slots
        self.chunk = chunk
        self.vocab_size = opened.tokenizer.vocab_size if opened.tokenizer else opened.model.vocab_size
        """No token beyond the tokenizer's is ever chosen: the rows after it only round the embedding up."""
        self.cache = Cache.empty(opened.model, num_slots, self.length)
        self._rows_S = torch.arange(num_slots)
        self.compiled = compiled
        self._graphs: dict[tuple[int, int], Decode] | None = {} if compiled else None

    def num_rows(self, num_used: int) -> int:
        """Return how many rows a step computes when the first `num_used` are to be: more share a compiled graph."""
        if self._graphs is None:
            return num_used
        return min(1 << (num_used - 1).bit_length(), self.num_slots)

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
        length = self._seen(int(positions_B.max()) + 1)
        if self._graphs is None:
            return self._decode(tokens_B, positions_B, length)
        length = min(max(LENGTH_STEP, 1 << (length - 1).bit_length()), self.length)
        shape = len(tokens_B), length
        if shape not in self._graphs:
            self._graphs[shape] = compiled_decode(self, length)
        return self._graphs[shape](tokens_B, positions_B)

    def _decode(self, tokens_B: Tensor, positions_B: Tensor, length: int) -> Tensor:
        span = Span(self._rows_S[: len(tokens_B)], 0, positions_B.unsqueeze(1), length)
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
        return min(-(-length // LENGTH_STEP) * LENGTH_STEP, self.length)


def compiled_decode(engine: Engine, length: int) -> Decode:
    """Return decoding of one shape as a graph. Torch gives up on a function after a few shapes, without a word, and
    runs it uncompiled; here that is an error, and the number of shapes that may occur is no cause for it."""
    import torch._dynamo

    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._dynamo.config.recompile_limit = MOST_GRAPHS
    torch._dynamo.config.accumulated_recompile_limit = 4 * MOST_GRAPHS

    def decode(tokens_B: Tensor, positions_B: Tensor) -> Tensor:
        return engine._decode(tokens_B, positions_B, length)

    unchecked = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}  # one shape, and weights that never move
    return torch.compile(decode, dynamic=False, fullgraph=True, options=unchecked)
