"""Divergence, agreement and paired intervals against the same worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.inference.models import opened
from tests.models.model_configs import gpt
from worldsize.data.batch import IGNORED_TARGET
from worldsize.data.tokenizer import ByteTokenizer
from worldsize.errors import UserError
from worldsize.inference.compare import compare, window_sums
from worldsize.inference.estimates import difference_of_means
from worldsize.inference.held_out import Asked, HeldOut, held_out, read
from worldsize.inference.quantize import split_bytes


def test_sums_of_a_window_by_hand() -> None:
    """Two predictions over three outcomes, probabilities in hundredths."""
    exact = torch.tensor([[[50.0, 25, 25], [10, 80, 10]]]).log()
    rounded = torch.tensor([[[25.0, 50, 25], [10, 80, 10]]]).log()
    found = {name: sums.tolist() for name, sums in window_sums(exact, rounded, torch.tensor([[0, 2]])).items()}
    assert found["num_predictions"] == [2]
    assert found["loss_original"] == pytest.approx([math.log(2) + math.log(10)], rel=1e-6)
    assert found["loss_quantized"] == pytest.approx([math.log(4) + math.log(10)], rel=1e-6)
    assert found["right_original"] == [1]
    assert found["right_quantized"] == [0]
    assert found["same_top1"] == [1]
    assert found["kl"] == pytest.approx([0.5 * math.log(2) - 0.25 * math.log(2)], rel=1e-6)


def test_what_is_no_target_counts_nowhere() -> None:
    """The second place is a source's: only the first and the last are predicted."""
    exact = torch.tensor([[[50.0, 50], [99, 1], [20, 80]]]).log()
    rounded = torch.tensor([[[25.0, 75], [1, 99], [20, 80]]]).log()
    targets = torch.tensor([[0, IGNORED_TARGET, 1]])
    found = {name: sums.tolist() for name, sums in window_sums(exact, rounded, targets).items()}
    assert found["num_predictions"] == [2]
    assert found["loss_original"] == pytest.approx([-math.log(0.5) - math.log(0.8)], rel=1e-6)
    assert found["loss_quantized"] == pytest.approx([-math.log(0.25) - math.log(0.8)], rel=1e-6)
    assert found["right_quantized"] == [1]
    assert found["same_top1"] == [1]  # of two equal outcomes the first is taken, which is not the other's
    assert found["kl"] == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3)], rel=1e-6)


losses = st.lists(st.floats(0.1, 5), min_size=2, max_size=12)


@given(losses, st.floats(-0.05, 0.05))
def test_what_makes_a_window_hard_for_both_is_no_uncertainty(of_original: list[float], more: float) -> None:
    """Every window worse by the same: the interval is that number, however much the windows differ."""
    first = np.array(of_original)
    found = difference_of_means((first * 10, (first + more) * 10), np.full(len(first), 10), np.asarray)
    assert (found.value, found.low, found.high) == pytest.approx((more, more, more), abs=1e-9)


def test_the_interval_of_a_difference_is_that_of_a_mean() -> None:
    """Differences drawn from a normal distribution: close to the textbook's ± 1.96 standard errors."""
    change = np.random.default_rng(1).normal(0.02, 0.1, size=400)
    found = difference_of_means((np.full(400, 3.0), 3.0 + change), np.ones(400, dtype=int), np.asarray)
    stderr = change.std(ddof=1) / 20
    assert found.value == pytest.approx(change.mean())
    assert found.low == pytest.approx(change.mean() - 1.96 * stderr, abs=0.15 * stderr)
    assert found.high == pytest.approx(change.mean() + 1.96 * stderr, abs=0.15 * stderr)


def test_a_perplexity_differs_by_the_exponentials() -> None:
    found = difference_of_means((np.array([2.0, 2.0]), np.array([2.2, 2.2])), np.array([1, 1]), np.exp)
    assert found.value == pytest.approx(math.exp(2.2) - math.exp(2.0))


def published_character_model(num_layers: int, width: int, num_heads: int, length: int, vocab: int) -> dict[str, int]:
    """Numbers in each tensor of a character model whose every head keeps a mask of its own."""
    tensors = {"token.weight": vocab * width, "position.weight": length * width}
    for layer in range(num_layers):
        for head in range(num_heads):
            for part in ("key", "query", "value"):
                tensors[f"{layer}.{head}.{part}.weight"] = width * width // num_heads
            tensors[f"{layer}.{head}.mask"] = length * length
        for name, size in {"out": width * width, "up": 4 * width * width, "down": 4 * width * width}.items():
            tensors[f"{layer}.{name}.weight"] = size
            tensors[f"{layer}.{name}.bias"] = 4 * width if name == "up" else width
        for norm in ("norm1", "norm2"):
            tensors |= {f"{layer}.{norm}.weight": width, f"{layer}.{norm}.bias": width}
    return tensors | {"norm.weight": width, "norm.bias": width, "head.weight": vocab * width, "head.bias": vocab}


def test_published_sizes_split_into_weights_and_masks() -> None:
    """25.5 M parameters: 169.4 → 93.8 MB was said; it is 102.3 → 26.7 MB of weights, and 67.1 MB of masks that stay."""
    numbers = published_character_model(8, 512, 8, 512, 65)
    parameters = [name for name in numbers if not name.endswith("mask")]
    assert sum(numbers[name] for name in parameters) == pytest.approx(25.5e6, rel=5e-3)
    before = {name: 4 * size for name, size in numbers.items()}
    linear = {name for name in parameters if name.endswith(".weight") and numbers[name] >= 512 * 64}
    linear -= {"token.weight", "position.weight"}
    after = {name: size // 4 if name in linear else size for name, size in before.items()}
    for tensors, weights_mb, total_mb in ((before, 102.3, 169.4), (after, 26.7, 93.8)):
        sizes = split_bytes(tensors, parameters, sum(tensors.values()) + 1000)
        assert sizes.weights_bytes / 1e6 == pytest.approx(weights_mb, rel=1e-2)
        assert sizes.buffers_bytes == 64 * 512 * 512 * 4 == pytest.approx(67.1e6, rel=1e-3)
        assert (sizes.weights_bytes + sizes.buffers_bytes) / 1e6 == pytest.approx(total_mb, rel=3e-3)
        assert sizes.rest_bytes == 1000


def test_windows_are_spread_over_the_text_and_travel(tmp_path: object) -> None:
    path = tmp_path / "text.txt"  # type: ignore[operator]
    path.write_bytes(bytes(range(97, 122)) * 40)
    ours = opened(gpt(vocab_size=256, context_length=16), ByteTokenizer())
    found = held_out(ours, Asked(str(path)), 5)
    assert found.tokens.shape == found.targets.shape == (5, 16)
    assert torch.equal(found.tokens[:, 1:], found.targets[:, :-1])
    text = torch.tensor(list(path.read_bytes()))
    starts = [0, 240, 480, 736, 976]  # of the 62 windows, every 15.25th
    assert torch.equal(found.tokens, torch.stack([text[at : at + 16] for at in starts]))
    file = tmp_path / "held_out.safetensors"  # type: ignore[operator]
    found.write(file)
    again = read(file)
    assert (again.name, again.quality) == (found.name, "perplexity")
    assert torch.equal(again.targets, found.targets)


def test_a_model_differs_from_itself_by_nothing_and_a_broken_one_is_told() -> None:
    ours = opened(gpt())
    ids_NT = torch.randint(61, (3, 10), generator=torch.Generator().manual_seed(0))
    data = HeldOut("nothing", "perplexity", ids_NT[:, :-1], ids_NT[:, 1:], torch.ones_like(ids_NT[:, 1:]))
    found = compare(ours, ours, data).sums
    assert found.num_predictions == [9, 9, 9]
    assert found.kl == pytest.approx([0, 0, 0], abs=1e-9)
    assert found.same_top1 == [9, 9, 9]
    broken = opened(gpt())
    broken.weights["final_norm.bias"][3] = float("nan")
    with pytest.raises(UserError, match="not all finite"):
        compare(ours, broken, data)
