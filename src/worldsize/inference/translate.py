"""Translating with a decoder that was trained on pairs: greedy or beam search, many sentences at a time.

Sentences whose sources have as many tokens run together, so that no row is padded and no mask is needed. Our decoder
keeps keys and values of what it has read; another model reads the whole prefix again at each token.

Letters: N rows (sentences × hypotheses), S sentences, M beams, V vocabulary, T tokens so far.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsize.data.tokenizer import Tokenizer
from worldsize.inference.prefix import CachedPrefix, ReadPrefix
from worldsize.models.decoder import Decoder

MOST_ROWS = 256
"""Hypotheses that run together."""
LONGER_THAN_SOURCE = 2
"""A translation may have so many times its source's tokens, and SOME_MORE."""
SOME_MORE = 10


class Prefix(Protocol):
    """What a model has read so far, row by row."""

    def read(self, tokens_NT: Tensor) -> Tensor:
        """Read more tokens; return logits_NV of what follows the last."""
        ...

    def keep(self, rows_N: Tensor) -> None:
        """Go on with these rows, in this order; a row may be kept several times."""
        ...


def translate(
    model: nn.Module, sources: Sequence[Sequence[int]], end: int, longest: Sequence[int], num_beams: int = 1
) -> list[list[int]]:
    """Return each source's translation by a module that maps tokens to logits, as `translate_with` does."""

    def begin(num_tokens: int) -> Prefix:
        return CachedPrefix(model, num_tokens) if isinstance(model, Decoder) else ReadPrefix(model)

    device = next(model.parameters()).device
    room = getattr(model, "context_length", None)
    return translate_with(begin, sources, end, longest, num_beams, context_length=room, device=device)


@torch.inference_mode()
def translate_with(
    begin: Callable[[int], Prefix],
    sources: Sequence[Sequence[int]],
    end: int,
    longest: Sequence[int],
    num_beams: int = 1,
    *,
    context_length: int | None = None,
    device: torch.device | str = "cpu",
    on_progress: Callable[[float], None] | None = None,
) -> list[list[int]]:
    """Return each source's translation: token ids without the end token, at most `longest` of them.

    `begin` returns a model that has read nothing yet, for so many tokens at most. One beam is greedy; more keep the
    hypotheses of highest log probability, and return the one that is best a token.
    """
    found: list[list[int]] = [[] for _ in sources]
    num_done = 0
    for group in _groups(sources, num_beams):
        prompt_ST = torch.tensor([[*sources[index], end] for index in group], device=device)
        most = max(longest[index] for index in group)
        if context_length is not None:
            most = min(most, context_length - prompt_ST.shape[1])
        if most >= 1:  # else the source alone fills the context
            search = Search(end, num_beams, most)
            written = search.run(begin(prompt_ST.shape[1] + most), prompt_ST)
            for index, ids in zip(group, written, strict=True):
                found[index] = ids[: longest[index]]
        num_done += len(group)
        if on_progress is not None:
            on_progress(num_done / len(sources))
    return found


def longest_of(source: Sequence[int]) -> int:
    """Return how many tokens a source's translation may have."""
    return LONGER_THAN_SOURCE * len(source) + SOME_MORE


def text_of(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Return a translation as text. Ids that are no token's, to which a vocabulary is rounded up, stand for none."""
    return tokenizer.decode([i for i in ids if i < tokenizer.vocab_size]).strip()


def _groups(sources: Sequence[Sequence[int]], num_beams: int) -> Iterator[list[int]]:
    """Yield the numbers of sources of one length, at most MOST_ROWS hypotheses at a time."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, source in enumerate(sources):
        by_length[len(source)].append(index)
    size = max(1, MOST_ROWS // num_beams)
    for indices in by_length.values():
        yield from (indices[first : first + size] for first in range(0, len(indices), size))


class Search:
    """Beam search (Sutskever et al. 2014) with scores divided by length (Wu et al. 2016, alpha 1)."""

    def __init__(self, end: int, num_beams: int, longest: int) -> None:
        self.end, self.num_beams, self.longest = end, num_beams, longest

    def run(self, prefix: Prefix, prompt_ST: Tensor) -> list[list[int]]:
        """Return the best translation of each prompt."""
        num_sentences, beams = prompt_ST.shape[0], self.num_beams
        log_SV = F.log_softmax(prefix.read(prompt_ST).float(), dim=-1)
        vocab_size = log_SV.shape[-1]
        # More beams than words: the surplus starts out impossible, and so gives way to what comes.
        scores_SM, tokens_SM = F.pad(log_SV, (0, max(0, beams - vocab_size)), value=-torch.inf).topk(beams, dim=-1)
        tokens_SM = tokens_SM.clamp(max=vocab_size - 1)
        first_row = torch.arange(num_sentences, device=prompt_ST.device).repeat_interleave(beams)
        prefix.keep(first_row)
        written_SMT = tokens_SM.unsqueeze(-1)
        ended_SM = tokens_SM == self.end
        for _ in range(1, self.longest):
            if bool(ended_SM.all()):
                break
            logits_NV = prefix.read(written_SMT[..., -1].reshape(-1, 1))
            scores_SM, tokens_SM, parents_SM = self._extend(logits_NV, scores_SM, ended_SM, written_SMT)
            prefix.keep((torch.arange(num_sentences, device=parents_SM.device)[:, None] * beams + parents_SM).flatten())
            written_SMT = written_SMT.gather(1, parents_SM.unsqueeze(-1).expand_as(written_SMT))
            ended_SM = ended_SM.gather(1, parents_SM) | (tokens_SM == self.end)
            written_SMT = torch.cat((written_SMT, tokens_SM.unsqueeze(-1)), dim=-1)
        return self._best(scores_SM, written_SMT)

    def _extend(
        self, logits_NV: Tensor, scores_SM: Tensor, ended_SM: Tensor, written_SMT: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the score, next token and parent of each sentence's best continuations; what has ended stays as is."""
        num_sentences, beams = scores_SM.shape
        log_SMV = F.log_softmax(logits_NV.float(), dim=-1).view(num_sentences, beams, -1)
        stays = torch.full_like(log_SMV[0, 0], -torch.inf)
        stays[self.end] = 0.0
        log_SMV = torch.where(ended_SM.unsqueeze(-1), stays, log_SMV)
        totals_SMV = scores_SM.unsqueeze(-1) + log_SMV
        lengths_SM = (written_SMT != self.end).sum(-1) + 1
        grown_SM = lengths_SM + (~ended_SM).long()
        if beams == 1:
            scores, choice = totals_SMV.flatten(1).max(-1, keepdim=True)
        else:
            ranked = (totals_SMV / grown_SM.unsqueeze(-1)).flatten(1).topk(beams, dim=-1).indices
            scores, choice = totals_SMV.flatten(1).gather(1, ranked), ranked
        vocab_size = log_SMV.shape[-1]
        return scores, choice % vocab_size, choice // vocab_size

    def _best(self, scores_SM: Tensor, written_SMT: Tensor) -> list[list[int]]:
        lengths_SM = (written_SMT != self.end).sum(-1) + 1
        best_S = (scores_SM / lengths_SM).argmax(-1)
        found = []
        for index, beam in enumerate(best_S.tolist()):
            ids: list[int] = written_SMT[index, beam].tolist()
            found.append(ids[: ids.index(self.end)] if self.end in ids else ids)
        return found
