"""Decoding against the model read out in full, and beam search against every sequence there is."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from tests.models.model_configs import gpt, llama
from worldsize.config.schema import ModelConfig
from worldsize.inference.methods import METHODS
from worldsize.inference.network import Network
from worldsize.inference.packing import pack
from worldsize.inference.prefix import CachedPrefix, NetworkPrefix, ReadPrefix
from worldsize.inference.translate import translate
from worldsize.models.build import build
from worldsize.models.decoder import Decoder

END = 3
SOURCES = [[5, 6], [7, 8, 9], [6, 5], [4], [9, 9, 9]]


def spread_out(model: ModelConfig) -> Decoder:
    """A model whose logits differ enough to have an opinion."""
    decoder = build(model, 0, "cpu").eval()
    assert isinstance(decoder, Decoder)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim == 2:
                parameter.mul_(12)
    return decoder


def greedy(model: nn.Module, source: list[int], longest: int) -> list[int]:
    """Read the whole prefix for each token, one sentence at a time."""
    tokens = [*source, END]
    written: list[int] = []
    with torch.no_grad():
        while len(written) < longest:
            token = int(model(torch.tensor([tokens + written]))[0, -1].argmax())
            if token == END:
                break
            written.append(token)
    return written


@pytest.mark.parametrize("model", [gpt(vocab_size=12), llama(vocab_size=12)])
def test_kept_keys_and_values_give_the_logits_of_a_whole_forward(model: ModelConfig) -> None:
    decoder = spread_out(model)
    tokens_NT = torch.randint(12, (3, 9), generator=torch.Generator().manual_seed(0))
    order = torch.tensor([2, 2, 0])
    with torch.inference_mode():
        kept, whole = CachedPrefix(decoder, 9), ReadPrefix(decoder)
        torch.testing.assert_close(kept.read(tokens_NT[:, :4]), whole.read(tokens_NT[:, :4]), rtol=1e-4, atol=1e-4)
        kept.keep(order)
        whole.keep(order)
        for index in range(4, 9):
            token = tokens_NT[:, index : index + 1]
            torch.testing.assert_close(kept.read(token), whole.read(token), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", [gpt(vocab_size=12), llama(vocab_size=12)])
def test_a_packed_network_reads_as_the_module_does(model: ModelConfig) -> None:
    """Prompt, rows kept in another order and twice, then token by token."""
    decoder = spread_out(model)
    network = Network(model, pack(dict(decoder.state_dict()), model, METHODS["fp32"])).eval()
    tokens_NT = torch.randint(12, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        kept, whole = NetworkPrefix(network, model, 9), ReadPrefix(decoder)
        torch.testing.assert_close(kept.read(tokens_NT[:, :4]), whole.read(tokens_NT[:, :4]), rtol=1e-4, atol=1e-4)
        for order in (torch.tensor([2, 2, 0, 1]), torch.arange(4)):
            kept.keep(order)
            whole.keep(order)
            for token in ([[1], [2], [3], [4]], [[5], [5], [0], [1]]):
                read = [prefix.read(torch.tensor(token)) for prefix in (kept, whole)]
                torch.testing.assert_close(*read, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", [gpt(vocab_size=12), llama(vocab_size=12)])
def test_greedy_in_batches_is_greedy_alone(model: ModelConfig) -> None:
    decoder = spread_out(model)
    longest = [10, 4, 6, 10, 10]
    found = translate(decoder, SOURCES, END, longest)
    assert found == [greedy(decoder, source, most) for source, most in zip(SOURCES, longest, strict=True)]
    assert any(found)


def test_a_model_that_is_not_ours_decodes_the_same() -> None:
    decoder = spread_out(gpt(vocab_size=12))

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = decoder

        def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(tokens_BT)
            return logits

    for num_beams in (1, 3):
        ours, theirs = (translate(model, SOURCES, END, [6] * 5, num_beams) for model in (decoder, Other()))
        assert ours == theirs


def mean_log_probability(model: nn.Module, source: list[int], written: tuple[int, ...]) -> float:
    tokens = torch.tensor([[*source, END, *written]])
    with torch.no_grad():
        log_TV = model(tokens)[0].log_softmax(-1)
    start = len(source)
    return sum(float(log_TV[start + i, token]) for i, token in enumerate(written)) / len(written)


def test_a_beam_as_wide_as_all_there_is_finds_the_best_of_all() -> None:
    """Vocabulary 4, at most three tokens: 3 + 9 + 27 endings and the 27 that do not end, all tried by hand."""
    decoder = spread_out(gpt(vocab_size=4, num_layers=1))
    for source in ([0], [1, 2], [2, 2, 1]):
        words = [token for token in range(4) if token != END]
        finished = [(*w, END) for n in range(3) for w in itertools.product(words, repeat=n)]
        all_written = [*finished, *itertools.product(words, repeat=3)]
        best = max(all_written, key=lambda written: mean_log_probability(decoder, source, written))
        found = translate(decoder, [source], END, [3], num_beams=4 * 16)
        assert found[0] == [token for token in best if token != END]


def test_a_source_that_fills_the_context_has_no_translation() -> None:
    decoder = spread_out(gpt(vocab_size=12, context_length=6))
    assert translate(decoder, [[5] * 5, [5]], END, [4, 4])[0] == []
