"""Gradients as 4-bit integers: how far rounding may be off, that nothing is lost over steps, and what a rank sends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsize.models.cost import ModelDescription
from worldsize.parallel.int4_gradients import (
    BLOCK,
    BYTES_PER_BLOCK,
    dequantize,
    from_blocks,
    message_bytes,
    quantize,
    to_blocks,
)

SHAPES = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple), min_size=1, max_size=5)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=50, deadline=None)
@given(shapes=SHAPES, seed=st.integers(0, 2**16))
def test_blocks_hold_every_element_once_and_give_it_back(shapes: list[tuple[int, ...]], seed: int) -> None:
    tensors = [normal(*shape, seed=seed) for shape in shapes]
    blocks = to_blocks(tensors)
    assert float(blocks.double().abs().sum()) == pytest.approx(float(sum(t.double().abs().sum() for t in tensors)))
    again = [torch.full_like(tensor, torch.nan) for tensor in tensors]
    from_blocks(blocks, again)
    assert all(torch.equal(ours, given) for ours, given in zip(again, tensors, strict=True))


@settings(max_examples=50, deadline=None)
@given(exponent=st.integers(-30, 30), seed=st.integers(0, 2**16))
def test_rounding_is_off_by_half_a_step_of_the_blocks_largest_element(exponent: int, seed: int) -> None:
    blocks = normal(3, BLOCK, seed=seed, scale=2.0**exponent)
    off = (dequantize(quantize(blocks)) - blocks).abs().amax(dim=1)
    half_a_step = blocks.abs().amax(dim=1) / 7 / 2
    assert bool((off <= half_a_step * (1 + 7 * 2**-7)).all())  # a bf16 scale is off by 2**-9, seven times at the end


def test_integers_times_a_power_of_two_are_kept_exactly() -> None:
    blocks = (torch.arange(BLOCK) % 15 - 7).float().repeat(5000, 1) * 2.0**-20  # more rows than are rounded at a time
    message = quantize(blocks)
    assert message.shape == (5000, BYTES_PER_BLOCK)
    assert torch.equal(dequantize(message), blocks)


def test_what_is_left_out_comes_with_later_steps() -> None:
    """Error feedback's books: what was sent, and what is still left out, are all gradients together."""
    left_out, sent, given = torch.zeros(4, BLOCK), torch.zeros(4, BLOCK), torch.zeros(4, BLOCK)
    for step in range(50):
        gradient = normal(4, BLOCK, seed=step) + 0.01  # far less than a rounding step, and the same in every step
        given += gradient
        message = quantize(gradient + left_out)
        left_out = gradient + left_out - dequantize(message)
        sent += dequantize(message)
    torch.testing.assert_close(sent + left_out, given, rtol=0, atol=1e-4)
    assert float(left_out.abs().max()) < 0.5  # of a step's largest element of about 3: it does not grow


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_stays_so(value: float) -> None:
    blocks = normal(2, BLOCK)
    blocks[0, 3] = value
    back = dequantize(quantize(blocks))
    assert not bool(back[0].isfinite().any())
    assert bool(back[1].isfinite().all())


def test_zeros_stay_zeros() -> None:
    assert torch.equal(dequantize(quantize(torch.zeros(2, BLOCK))), torch.zeros(2, BLOCK))


def test_a_message_is_34_bytes_for_each_begun_64_elements_of_a_tensor() -> None:
    model = ModelDescription(
        num_layers=0,
        parameter_shapes={"a": (64, 64), "b": (65,), "c": (1,)},
        block_prefixes=(),
        column_parallel={},
        row_parallel=(),
    )
    assert message_bytes(model) == (64 + 2 + 1) * 34
    tensors = [torch.ones(64, 64), torch.ones(65), torch.ones(1)]
    assert quantize(to_blocks(tensors)).numel() == message_bytes(model)
