"""The sampler: every epoch whole, one stream whatever the batch or the layout, digests that add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsize.data.sampler import DIGEST_MODULUS, Sampler, combine, digest, to_hex
from worldsize.errors import UserError

SEEDS = st.integers(0, 2**63 - 1)
IDS = st.lists(st.integers(0, 2**40), min_size=1, max_size=40).map(lambda ids: np.array(ids, dtype=np.int64))


@given(num_samples=st.integers(1, 60), batch=st.integers(1, 150), seed=SEEDS, num_steps=st.integers(1, 12))
def test_every_epoch_visits_each_sample_once(num_samples: int, batch: int, seed: int, num_steps: int) -> None:
    sampler = Sampler(num_samples, seed)
    stream = np.concatenate([sampler.sample_ids(step, batch) for step in range(num_steps)])
    assert stream.dtype == np.int64
    assert len(stream) == num_steps * batch
    for start in range(0, len(stream), num_samples):
        epoch = stream[start : start + num_samples]
        assert len(set(epoch.tolist())) == len(epoch)
        assert set(epoch.tolist()) <= set(range(num_samples))


@given(num_samples=st.integers(1, 60), seed=SEEDS, batches=st.lists(st.integers(1, 70), min_size=2, max_size=2))
def test_the_global_batch_only_cuts_one_stream(num_samples: int, seed: int, batches: list[int]) -> None:
    one, other = (
        np.concatenate([Sampler(num_samples, seed).sample_ids(step, batch) for step in range(5)]) for batch in batches
    )
    shared = min(len(one), len(other))
    assert np.array_equal(one[:shared], other[:shared])


@given(num_samples=st.integers(1, 60), seed=SEEDS, batch=st.integers(1, 70), steps=st.permutations(range(6)))
def test_a_step_is_the_same_in_whatever_order_steps_are_asked_for(
    num_samples: int, seed: int, batch: int, steps: list[int]
) -> None:
    sampler = Sampler(num_samples, seed)
    for step in steps:
        assert np.array_equal(sampler.sample_ids(step, batch), Sampler(num_samples, seed).sample_ids(step, batch))


def test_the_stream_is_pinned() -> None:
    """Written down from splitting PCG64's raw stream by hand: sort positions by their draws."""
    bits = np.random.PCG64(np.random.SeedSequence(7, spawn_key=(1,)))
    draws = [(int(bits.random_raw()), position) for position in range(6)]
    by_hand = [position for _, position in sorted(draws)]
    assert Sampler(6, 7).sample_ids(1, 6).tolist() == by_hand
    assert Sampler(8, 0).sample_ids(0, 8).tolist() == [6, 3, 1, 4, 5, 2, 7, 0], "recorded runs would not be comparable"


def test_epochs_and_seeds_differ() -> None:
    sampler = Sampler(1000, 3)
    first, second = sampler.sample_ids(0, 1000), sampler.sample_ids(1, 1000)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Sampler(1000, 4).sample_ids(0, 1000))
    # A seed whose second 32-bit word is 5 must not begin where epoch 5 of the plain seed does.
    assert not np.array_equal(Sampler(1000, 1 + (5 << 32)).sample_ids(0, 1000), Sampler(1000, 1).sample_ids(5, 1000))


def test_the_order_is_uniform() -> None:
    """Each sample is as likely at each position: chi-square over 2000 seeds, 24 degrees of freedom, p > 1e-6."""
    counts = np.zeros((5, 5))
    for seed in range(2000):
        counts[np.arange(5), Sampler(5, seed).sample_ids(0, 5)] += 1
    chi_square = float(((counts - 400) ** 2 / 400).sum())
    assert chi_square < 66


@given(data=st.data(), num_ranks=st.integers(1, 8), per_rank=st.integers(1, 8), step=st.integers(0, 2**40))
def test_shards_are_the_batch_and_their_digests_add_up(
    data: st.DataObject, num_ranks: int, per_rank: int, step: int
) -> None:
    sampler = Sampler(data.draw(st.integers(1, 50)), data.draw(SEEDS))
    ids = sampler.sample_ids(step, num_ranks * per_rank)
    shards = [sampler.shard(ids, rank, num_ranks) for rank in range(num_ranks)]
    assert {len(shard) for shard in shards} == {per_rank}
    assert np.array_equal(np.concatenate(shards), ids)
    assert combine(digest(step, shard) for shard in shards) == digest(step, ids)


def test_ids_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match=r"10 samples do not divide into 3 data ranks.*multiple of 3"):
        Sampler(100, 0).shard(np.arange(10), 0, 3)


def test_no_samples_are_refused() -> None:
    with pytest.raises(UserError, match="not one sample"):
        Sampler(0, 0)


def reference_digest(step: int, ids: list[int]) -> int:
    """The same hash in plain integers."""
    mask = 2**64 - 1

    def mix(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) & mask
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ state >> 27) * 0x94D049BB133111EB & mask
        return state ^ state >> 31

    total = 0
    for sample in ids:
        low = mix(sample ^ mix((step + 0x243F6A8885A308D3) & mask))
        high = mix(sample ^ mix((step + 0x13198A2E03707344) & mask))
        total += (high << 64) + low
    return total % 2**128


def test_the_mixing_function_is_splitmix64() -> None:
    """First outputs of splitmix64 from state 1234567, as published with Rosetta Code's and Java's generators."""
    from worldsize.data.sampler import _mix

    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + i * gamma) % 2**64 for i in range(3)], dtype=np.uint64)
    assert _mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(step=st.integers(0, 2**62), ids=IDS)
def test_the_digest_equals_plain_integer_arithmetic(step: int, ids: np.ndarray) -> None:
    assert digest(step, ids) == reference_digest(step, ids.tolist())


@given(step=st.integers(0, 10**6), ids=IDS, data=st.data())
def test_the_digest_notices_repeats_other_ids_and_other_steps_but_not_order(
    step: int, ids: np.ndarray, data: st.DataObject
) -> None:
    original = digest(step, ids)
    assert digest(step, np.array(data.draw(st.permutations(ids.tolist())))) == original
    assert digest(step, np.append(ids, ids[0])) != original
    assert digest(step + 1, ids) != original
    changed = ids.copy()
    changed[data.draw(st.integers(0, len(ids) - 1))] += 1
    assert digest(step, changed) != original
    assert combine([original, original]) != original, "a rank that is counted twice"


def test_ids_swapped_between_steps_are_noticed() -> None:
    right = combine([digest(0, np.array([1, 2])), digest(1, np.array([3, 4]))])
    wrong = combine([digest(0, np.array([1, 3])), digest(1, np.array([2, 4]))])
    assert right != wrong


def test_no_two_of_many_pairs_collide_and_bits_are_balanced() -> None:
    hashes = [digest(step, np.array([sample])) for step in range(100) for sample in range(100)]
    assert len(set(hashes)) == 10_000
    ones = sum(value.bit_count() for value in hashes) / (128 * 10_000)
    assert abs(ones - 0.5) < 0.002  # 4.5 standard deviations


def test_digests_print_as_32_digits() -> None:
    assert to_hex(255) == "0" * 30 + "ff"
    assert len(to_hex(DIGEST_MODULUS - 1)) == 32
    assert to_hex(digest(0, np.array([], dtype=np.int64))) == "0" * 32
