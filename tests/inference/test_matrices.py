"""Packed weights against the same arithmetic in float64, for any shape; the compiled kernels against PyTorch alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldsize.inference import kernels
from worldsize.inference.int4 import GROUP, Int4, Int4Kernel
from worldsize.inference.int8 import Int8, Int8Kernel, to_int8
from worldsize.inference.matrix import Matrix

sizes = st.tuples(st.integers(1, 140), st.integers(1, 150), st.integers(1, 17), st.integers(0, 2**31 - 1))


def numbers(*shape: int, seed: int, spread: float = 1.0) -> Tensor:
    """Return numbers whose rows differ in size, so that a scale of the wrong row shows."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.exp(spread * torch.randn(shape[0], 1, generator=generator))
    return torch.randn(shape, generator=generator) * size


def dequantized(matrix: Matrix, num_outputs: int) -> Tensor:
    return matrix.embed(torch.arange(num_outputs)).double()


def rounded(x_NI: Tensor) -> Tensor:
    values, scale_N = to_int8(x_NI)
    return values.double() * scale_N.double().unsqueeze(1)


def assert_close(got: Tensor, expected: Tensor, x_NI: Tensor, weight: Tensor) -> None:
    """Within fp32's rounding of a sum of this many products."""
    bound_NO = x_NI.double().abs() @ weight.abs().t() * 2e-6 + 1e-6
    assert ((got.double() - expected).abs() <= bound_NO + expected.abs() * 2e-6).all()


@given(sizes)
@settings(deadline=None, max_examples=40)
def test_int8_is_off_by_half_a_step_at_most(size: tuple[int, int, int, int]) -> None:
    num_outputs, num_inputs, num_rows, seed = size
    weight_OI = numbers(num_outputs, num_inputs, seed=seed)
    packed = Int8.pack(weight_OI)
    kept = dequantized(packed, num_outputs)
    steps = weight_OI.double().abs().amax(1, keepdim=True) / 127
    assert ((kept - weight_OI).abs() <= steps * 0.5001).all()
    x_NI = numbers(num_rows, num_inputs, seed=seed + 1)
    got = packed.linear(x_NI)
    assert_close(got, rounded(x_NI) @ kept.t(), x_NI, kept)
    input_steps = x_NI.double().abs().amax(1, keepdim=True) / 127
    exact = x_NI.double() @ weight_OI.double().t()
    from_weights = x_NI.double().abs().sum(1, keepdim=True) * steps.t() / 2
    from_inputs = (kept.abs().sum(1) * input_steps / 2).expand_as(exact)
    assert ((got - exact).abs() <= 1.001 * (from_weights + from_inputs) + 1e-6).all()


@given(sizes)
@settings(deadline=None, max_examples=40)
def test_int4_is_nearest_the_weight_of_the_scales_tried(size: tuple[int, int, int, int]) -> None:
    """Never worse than the plain scale: the largest weight of a group at -8, the others rounded."""
    num_outputs, num_inputs, num_rows, seed = size
    weight_OI = numbers(num_outputs, num_inputs, seed=seed)
    packed = Int4.pack(weight_OI)
    kept = dequantized(packed, num_outputs)
    groups = F.pad(weight_OI, (0, -num_inputs % GROUP)).double().view(num_outputs, -1, GROUP)
    at = groups.abs().argmax(-1, keepdim=True)
    scale = (groups.gather(-1, at) / -8).half().double()
    plain = (groups / scale).round().clamp(-8, 7) * scale
    error = (F.pad(kept, (0, -num_inputs % GROUP)).view_as(groups) - groups).square().sum(-1)
    assert (error <= (plain - groups).square().sum(-1) * 1.0001 + 1e-12).all()
    x_NI = numbers(num_rows, num_inputs, seed=seed + 1)
    bias_O = numbers(1, num_outputs, seed=seed + 2)[0]
    assert_close(packed.linear(x_NI, bias_O), x_NI.double() @ kept.t() + bias_O, x_NI, kept)


def test_int4_by_hand() -> None:
    """One group of known values: -8 … 7 in steps of a half are kept exactly, two halves of the group apart."""
    weight_OI = torch.arange(-8.0, 8.0).repeat(2).view(1, 32) / 2
    weight_OI[0, 16:] = weight_OI[0, 16:].flip(0)
    packed = Int4.pack(weight_OI)
    assert packed.scale_OG.tolist() == [[0.5]]
    assert packed.bytes_OGJ.tolist() == [[[low | (15 - low) << 4 for low in range(16)]]]
    assert torch.equal(packed.embed(torch.tensor([0])), weight_OI)
    assert packed.num_bytes == 16 + 2


@pytest.mark.parametrize("matrix", [Int8, Int4])
def test_zeros_stay_zeros(matrix: type[Matrix]) -> None:
    packed = matrix.pack(torch.zeros(3, 40))
    assert torch.equal(packed.embed(torch.arange(3)), torch.zeros(3, 40))
    assert torch.equal(packed.linear(torch.ones(2, 40)), torch.zeros(2, 3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("matrix", [Int8, Int4])
def test_what_is_not_finite_is_not_rounded_away(matrix: type[Matrix], bad: float) -> None:
    for found in (matrix.pack(numbers(70, 40, seed=1)), matrix.pack(numbers(70, 40, seed=1)).ready()):
        x_NI = numbers(3, 40, seed=2)
        x_NI[1, 17] = bad
        finite_N = found.linear(x_NI).isfinite().all(-1)
        assert finite_N.tolist() == [True, False, True]


needs_kernels = pytest.mark.skipif(kernels.why_not() is not None, reason=f"no kernels: {kernels.why_not()}")


@needs_kernels
@given(sizes)
@settings(deadline=None, max_examples=60)
def test_the_int8_kernel_is_equal_to_the_bit(size: tuple[int, int, int, int]) -> None:
    num_outputs, num_inputs, num_rows, seed = size
    plain = Int8.pack(numbers(num_outputs, num_inputs, seed=seed))
    kernel = Int8Kernel(plain)
    x_NI, bias_O = numbers(num_rows, num_inputs, seed=seed + 1), numbers(1, num_outputs, seed=seed + 2)[0]
    assert torch.equal(kernel.linear(x_NI, bias_O), plain.linear(x_NI, bias_O))
    assert torch.equal(kernel.linear(x_NI), plain.linear(x_NI))
    ids = torch.randint(num_outputs, (2, 3), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(kernel.embed(ids), plain.embed(ids))


@needs_kernels
@given(sizes)
@settings(deadline=None, max_examples=60)
def test_the_int4_kernel_rounds_its_inputs_and_nothing_else(size: tuple[int, int, int, int]) -> None:
    num_outputs, num_inputs, num_rows, seed = size
    plain = Int4.pack(numbers(num_outputs, num_inputs, seed=seed))
    kernel = Int4Kernel(plain)
    x_NI, bias_O = numbers(num_rows, num_inputs, seed=seed + 1), numbers(1, num_outputs, seed=seed + 2)[0]
    kept = dequantized(plain, num_outputs)
    assert_close(kernel.linear(x_NI, bias_O), rounded(x_NI) @ kept.t() + bias_O, x_NI, kept)
    ids = torch.randint(num_outputs, (2, 3), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(kernel.embed(ids), plain.embed(ids))


@needs_kernels
@pytest.mark.parametrize("matrix", [Int8Kernel, Int4Kernel])
def test_threads_change_nothing(matrix: type[Matrix]) -> None:
    packed = matrix.pack(numbers(1000, 512, seed=1))
    x_NI = numbers(7, 512, seed=2)
    alone = packed.linear(x_NI)
    torch.set_num_threads(2)
    assert torch.equal(packed.linear(x_NI), alone)


@needs_kernels
def test_a_kernel_says_what_it_cannot_take() -> None:
    packed = Int8Kernel.pack(numbers(64, 32, seed=1))
    with pytest.raises(RuntimeError, match="must be fp32"):
        packed.linear(torch.ones(1, 32, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="another shape"):
        packed.linear(torch.ones(1, 33))
    with pytest.raises(RuntimeError, match="64 contiguous fp32 numbers"):
        packed.linear(torch.ones(1, 32), torch.ones(3))


@needs_kernels
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=40)
def test_the_kernels_attention(num_rows: int, groups: int, per_key: int, length: int, seed: int) -> None:
    """Against torch's own in float64, each row up to a position of its own, the first row of the cache left out."""
    generator = torch.Generator().manual_seed(seed)
    d_head = 8
    q_BHD = torch.randn(num_rows, groups * per_key, d_head, generator=generator)
    keys, values = (torch.randn(num_rows + 1, groups, length, d_head, generator=generator) for _ in range(2))
    positions_B = torch.randint(length, (num_rows,), generator=generator)
    got_BC = torch.ops.worldsize_kernels.attend(q_BHD, keys, values, positions_B, 1)
    seen_BN = torch.arange(length) <= positions_B.unsqueeze(1)
    expected = F.scaled_dot_product_attention(
        q_BHD.unsqueeze(2).double(),
        keys[1:].double(),
        values[1:].double(),
        seen_BN[:, None, None, :],
        enable_gqa=True,
    )
    torch.testing.assert_close(got_BC.double(), expected.flatten(1), rtol=0, atol=1e-5)
