"""The encoder against itself without padding, and its cost against torch's counters."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tests.models.model_configs import gpt, models
from worldsize.config.schema import ModelConfig
from worldsize.models import cost
from worldsize.models.build import build
from worldsize.models.decoder import Decoder
from worldsize.models.encoder import Encoder

ENCODER = {"kind": "encoder", "num_classes": 3}


@given(models(**ENCODER))
@settings(max_examples=50, deadline=None)
def test_shapes_and_flop_equal_torchs_own(model: ModelConfig) -> None:
    with torch.device("meta"):
        encoder = Encoder(model)
        tokens_BT = torch.zeros(2, model.context_length, dtype=torch.long)
    own = [(name, tuple(tensor.shape)) for name, tensor in encoder.named_parameters()]
    assert list(cost.parameter_shapes(model).items()) == own
    with FlopCounterMode(display=False) as counter:
        encoder(tokens_BT, torch.ones_like(tokens_BT))
    assert counter.get_total_flops() == 2 * cost.forward_flop_per_sample(model, causal=False)
    assert cost.forward_flop_per_sample(model, causal=True) == cost.forward_flop_per_sample(model, causal=False)


@pytest.mark.parametrize("options", [{}, {"pooling": "cls"}, {"positions": "rotary", "norm": "rmsnorm"}])
def test_padding_changes_nothing(options: dict[str, str]) -> None:
    encoder = build(gpt(**ENCODER, **options), 0, "cpu").eval()
    tokens_BT = torch.randint(61, (2, 16), generator=torch.Generator().manual_seed(0))
    segments_BT = torch.ones_like(tokens_BT)
    segments_BT[0, 9:] = 0
    alone = encoder(tokens_BT[:1, :9], segments_BT[:1, :9])
    torch.testing.assert_close(encoder(tokens_BT, segments_BT)[:1], alone, rtol=1e-5, atol=1e-6)


def test_it_sees_both_ways() -> None:
    encoder = build(gpt(**ENCODER, pooling="cls"), 0, "cpu").eval()
    tokens_BT = torch.zeros(1, 8, dtype=torch.long)
    changed = tokens_BT.clone()
    changed[0, 7] = 5  # the class is read from position 0, which a causal model would not let see this
    ones = torch.ones_like(tokens_BT)
    assert not torch.allclose(encoder(tokens_BT, ones), encoder(changed, ones), atol=1e-7)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_packed_texts_do_not_see_each_other(positions: str) -> None:
    decoder = build(gpt(positions=positions), 0, "cpu").eval()
    assert isinstance(decoder, Decoder)
    tokens_BT = torch.randint(61, (1, 15), generator=torch.Generator().manual_seed(1))
    segments_BT = torch.tensor([[1] * 5 + [2] * 7 + [0] * 3])
    together = decoder(tokens_BT, segments_BT)
    for first, last in ((0, 5), (5, 12)):
        torch.testing.assert_close(together[:, first:last], decoder(tokens_BT[:, first:last]), rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(1, 24), min_size=1, max_size=20))
def test_flop_of_uneven_texts_are_the_sum_of_their_own(lengths: list[int]) -> None:
    model = gpt(**ENCODER)
    whole = sum(3 * cost.forward_flop_per_sample(model, causal=True, length=n) for n in lengths)
    assert cost.flop_per_token(model, lengths=lengths) * sum(lengths) == pytest.approx(whole, rel=1e-12)
