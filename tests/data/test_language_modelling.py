"""Samples of a token file against plain slices of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsize.data.language_modelling import LanguageModelling
from worldsize.data.prepare import prepare
from worldsize.data.token_file import TokenFile
from worldsize.errors import UserError


def token_file(folder: Path, num_tokens: int, num_train: int, dtype: str = "uint16") -> TokenFile:
    path = folder / f"{num_tokens}.{dtype}.tokens"
    tokens = np.arange(num_tokens)[::-1] + (np.iinfo(dtype).max - num_tokens)
    tokens.astype(np.dtype(dtype).newbyteorder("<")).tofile(path)
    return TokenFile(path, num_tokens, int(tokens.max()) + 1, dtype, "digest", num_train, "bytes", "numbers")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@given(context_length=st.integers(1, 40), num_train=st.integers(42, 90))
@settings(max_examples=30)
def test_samples_are_slices(
    dtype: str, context_length: int, num_train: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = token_file(tmp_path_factory.getbasetemp(), 140, num_train, dtype)
    whole = np.fromfile(file.path, dtype=dtype).astype(int).tolist()
    for split, tokens in (("train", whole[:num_train]), ("validation", whole[num_train:])):
        task = LanguageModelling(file, context_length, split)
        expected = []
        while len(tokens) > context_length:
            expected.append((tokens[:context_length], tokens[1 : context_length + 1]))
            tokens = tokens[context_length:]
        assert task.num_samples == len(expected)
        ids = np.random.default_rng(0).permutation(task.num_samples)
        batch = task.batch(ids, global_target_tokens=999)
        assert batch.tokens_BT.tolist() == [expected[i][0] for i in ids]
        assert batch.targets_BT.tolist() == [expected[i][1] for i in ids]
        assert batch.num_target_tokens == task.num_target_tokens(ids) == batch.targets_BT.numel()
        assert batch.global_target_tokens == 999


def test_batches_are_int64_and_own_their_memory(tmp_path: Path) -> None:
    task = LanguageModelling(token_file(tmp_path, 100, 90), 8, "train")
    batch = task.batch(np.array([1, 1, 3]), 1)
    for tensor in (batch.tokens_BT, batch.targets_BT):
        assert tensor.dtype == torch.int64
        assert tensor.shape == (3, 8)
    batch.tokens_BT += 1  # would fail, or reach the file, were it a view of it
    assert torch.equal(task.batch(np.array([1]), 1).tokens_BT[0] + 1, batch.tokens_BT[0])


def test_an_id_beyond_the_last_sample_is_an_error(tmp_path: Path) -> None:
    task = LanguageModelling(token_file(tmp_path, 100, 90), 8, "train")
    with pytest.raises(IndexError):
        task.batch(np.array([task.num_samples]), 1)


@pytest.mark.parametrize(
    ("split", "num_tokens", "advice"),
    [("train", 90, "Lower data.validation_fraction"), ("validation", 10, "Raise data.validation_fraction")],
)
def test_a_split_without_one_sample_says_the_numbers(split: str, num_tokens: int, advice: str, tmp_path: Path) -> None:
    file = token_file(tmp_path, 100, 90)
    assert LanguageModelling(file, num_tokens - 1, split).num_samples == 1
    with pytest.raises(UserError) as raised:
        LanguageModelling(file, num_tokens, split)
    assert str(raised.value) == (
        f"the {split} split of 'numbers' holds {num_tokens} of the corpus's 100 tokens; one sample of "
        f"model.context_length={num_tokens} needs {num_tokens + 1}. {advice}, use model.context_length="
        f"{num_tokens - 1} or less, or give more text."
    )


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds 0 of the corpus's 100 tokens"):
        LanguageModelling(token_file(tmp_path, 100, 100), 4, "validation")


def test_real_text_comes_back(shared_data: Path, make_data) -> None:
    path = shared_data / "tinyshakespeare" / "input.txt"
    task = LanguageModelling(prepare(make_data(path)), 128, "train")
    text = path.read_bytes()
    num_train = len(text) - int(0.05 * len(text))
    assert task.num_samples == (num_train - 1) // 128
    batch = task.batch(np.array([0, task.num_samples - 1]), 256)
    last = (task.num_samples - 1) * 128
    assert bytes(batch.tokens_BT[0].tolist()) == text[:128]
    assert bytes(batch.targets_BT[1].tolist()) == text[last + 1 : last + 129]
