"""Rows become samples: tokenized once, padded or packed, and counted by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsize.config.schema import Config, DataConfig, ModelConfig, ParallelConfig
from worldsize.data.batch import IGNORED_TARGET
from worldsize.data.classification import Classification
from worldsize.data.row_file import RowFile, prepare_held_out, prepare_rows
from worldsize.data.task import prepare_task
from worldsize.data.translation import Translation, packed
from worldsize.errors import UserError

TEXTS = ["abc", "de", "", "abcdefghijkl", "x"]


@pytest.fixture
def labelled(tmp_path: Path) -> DataConfig:
    lines = "".join(f"{text},{10 - index % 2}\n" for index, text in enumerate(TEXTS))
    (tmp_path / "rows.csv").write_text(f"text,label\n{lines}")
    return DataConfig(
        task="classification", source=str(tmp_path / "rows.csv"), validation_fraction=0.2, cache_dir=str(tmp_path)
    )


@pytest.fixture
def pairs(tmp_path: Path) -> DataConfig:
    (tmp_path / "pairs.csv").write_text("text,target\nab,XYZ\nc,D\nlong one,Q\nvw,U\n")
    return DataConfig(
        task="translation", source=str(tmp_path / "pairs.csv"), validation_fraction=0.25, cache_dir=str(tmp_path)
    )


def ids(text: str) -> list[int]:
    return list(text.encode())


def test_rows_are_tokenized_once_and_read_back(labelled: DataConfig) -> None:
    said: list[str] = []
    first = prepare_rows(labelled, on_progress=lambda share, doing: said.append(doing))
    assert (first.num_rows, first.num_train_rows, first.labels) == (5, 4, ("9", "10"))  # numbers in their order
    assert (first.vocab_size, first.end) == (257, 256)  # bytes have no end token of their own
    assert first.tokens().tolist() == ids("".join(TEXTS))
    assert first.offsets().tolist() == [0, 3, 5, 5, 17, 18]
    assert first.classes().tolist() == [1, 0, 1, 0, 1]
    assert said == ["tokenizing"]
    again = prepare_rows(labelled, on_progress=lambda share, doing: said.append(doing))
    assert again == first
    assert said == ["tokenizing"]
    assert again.tokenizer_used().decode(first.tokens()[:3]) == "abc"


def test_damage_is_found_and_another_text_is_another_file(labelled: DataConfig) -> None:
    first = prepare_rows(labelled)
    np.save(first.path.with_name(first.path.name.replace(".rows.json", ".tokens.npy")), np.zeros(3, dtype=np.uint8))
    assert prepare_rows(labelled).tokens().tolist() == ids("".join(TEXTS))
    source = Path(labelled.source)
    shutil.copy(source, source.with_name("other.csv"))
    with source.open("a") as file:
        file.write("more,9\n")
    assert prepare_rows(labelled).path != first.path
    assert prepare_rows(labelled).digest != first.digest


def test_a_class_that_is_only_held_out_is_refused(labelled: DataConfig) -> None:
    with Path(labelled.source).open("a") as file:
        file.write("last,11\n")
    with pytest.raises(UserError, match=r"class '11' .* is held out and never trained on. Classes in training: 9, 10"):
        prepare_rows(labelled)


def test_a_classifiers_batch_is_padded_to_its_longest_and_counts_no_padding(labelled: DataConfig) -> None:
    rows = prepare_rows(labelled)
    data = Classification(rows, 10, "train")
    batch = data.batch(np.array([0, 2, 1]), 7)
    assert batch.tokens_BT.tolist() == [ids("abc") + [256] * 5, [256] * 8, ids("de") + [256] * 6]
    assert batch.segments_BT is not None
    assert batch.segments_BT.sum(1).tolist() == [3, 1, 2]  # an empty text is its end token
    assert batch.targets_BT.tolist() == [1, 1, 0]
    assert (batch.num_target_tokens, batch.num_tokens, batch.global_target_tokens) == (3, 6, 7)
    long = data.batch(np.array([3]), 1)
    assert long.tokens_BT.tolist() == [ids("abcdefghij")]  # cut off at the context's end
    assert data.text_lengths.tolist() == [3, 2, 1, 10]
    assert data.num_target_tokens(np.array([0, 1])) == 2


def test_a_token_in_front_and_full_width(labelled: DataConfig) -> None:
    data = Classification(prepare_rows(labelled), 6, "train", front=True, full_width=True)
    batch = data.batch(np.array([0, 3]), 1)
    assert batch.tokens_BT.tolist() == [[256, *ids("abc"), 256, 256], [256, *ids("abcde")]]
    assert batch.num_tokens == 4 + 6


@pytest.mark.parametrize("task", ["labelled", "pairs"])
def test_ranks_that_share_a_sample_have_batches_of_one_width(task: str, request: pytest.FixtureRequest) -> None:
    data: DataConfig = request.getfixturevalue(task)
    for strategy, width in (("fsdp", 8), ("tensor", 40), ("pipeline", 40)):
        config = Config(data=data, model=ModelConfig(context_length=40), parallel=ParallelConfig(strategy=strategy))
        batch = prepare_task(data).samples(config, "train").batch(np.array([0, 1]), 1)
        assert batch.tokens_BT.shape == (2, width), strategy


def test_hidden_tokens_depend_on_step_and_sample_alone(labelled: DataConfig) -> None:
    data = Classification(prepare_rows(labelled), 16, "train", token_dropout=0.5, seed=3)

    def seen(ids: list[int], step: int | None) -> list[list[int]]:
        segments_BT = data.batch(np.array(ids), 1, step).segments_BT
        assert segments_BT is not None
        return [row[:12] for row in segments_BT.tolist()]

    whole = [1] * 12
    assert seen([3], None) == [whole]  # nothing is hidden in evaluation
    assert seen([3, 0], 7)[0] == seen([3], 7)[0] == seen([1, 3], 7)[1]
    hidden = [seen([3], step)[0] for step in range(200)]
    assert all(row[0] == 1 for row in hidden)
    assert len({tuple(row) for row in hidden}) > 100
    assert np.mean(hidden) == pytest.approx((1 + 11 * 0.5) / 12, abs=0.03)
    assert data.batch(np.array([3]), 1, 7).num_tokens == 12


def test_pairs_predict_the_target_alone(pairs: DataConfig) -> None:
    rows = prepare_rows(pairs)
    data = Translation(rows, 8, "train")
    assert (data.num_samples, data.num_left_out) == (2, 1)  # 'long one' needs ten tokens
    batch = data.batch(np.array([0, 1]), 5)
    no = IGNORED_TARGET
    assert batch.tokens_BT.tolist() == [
        [*ids("ab"), 256, *ids("XYZ"), 256, 256],
        [*ids("c"), 256, *ids("D"), *[256] * 5],
    ]
    assert batch.targets_BT.tolist() == [[no, no, *ids("XYZ"), 256, no, no], [no, *ids("D"), 256, *[no] * 5]]
    assert batch.segments_BT is None
    assert (batch.num_target_tokens, batch.num_tokens) == (4 + 2, 6 + 3)
    assert data.num_target_tokens(np.array([1])) == 2
    held_out = Translation(rows, 8, "validation")
    assert held_out.references == ("U",)
    assert held_out.source(0) == ids("vw")


def test_packed_pairs_are_numbered_and_lose_nothing(pairs: DataConfig) -> None:
    data = Translation(prepare_rows(pairs), 10, "train", packing=True)
    assert data.num_samples == 2  # ten tokens; six and three
    batch = data.batch(np.arange(2), 1)
    assert batch.segments_BT is not None
    assert batch.segments_BT.tolist() == [[1] * 10, [1] * 6 + [2] * 3 + [0]]
    assert batch.tokens_BT[1].tolist() == [*ids("ab"), 256, *ids("XYZ"), *ids("c"), 256, *ids("D"), 256]
    assert batch.num_tokens == 19
    assert batch.num_target_tokens == 2 + 4 + 2 == int((batch.targets_BT != IGNORED_TARGET).sum())


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(50, 120))
def test_packing_keeps_every_text_once_within_capacity(lengths: list[int], capacity: int) -> None:
    bins = packed(np.array(lengths), capacity)
    assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
    filled = [sum(lengths[index] for index in members) for members in bins]
    assert max(filled) <= capacity
    assert len(bins) == 1 or sum(sorted(filled)[:2]) > capacity  # no two samples could be one


def test_what_is_said_of_too_little(pairs: DataConfig, labelled: DataConfig) -> None:
    with pytest.raises(UserError, match=r"the shortest needs 3 tokens. Raise model.context_length"):
        Translation(prepare_rows(pairs), 2, "train")
    empty: RowFile = prepare_rows(labelled.model_copy(update={"validation_fraction": 0.0}))
    with pytest.raises(UserError, match=r"validation split .* holds none .* data.validation_source=FILE"):
        Classification(empty, 8, "validation")


def test_other_rows_become_tokens_as_those_trained_on(labelled: DataConfig, tmp_path: Path) -> None:
    """Classes, and a tokenizer trained on the rows, stay what they were, though the other rows would give less."""
    pytest.importorskip("tokenizers")
    trained = labelled.model_copy(update={"tokenizer": "bpe:260"})
    first = prepare_rows(trained)
    (tmp_path / "other.csv").write_text("text,label\nabcabc,10\n")
    update = {"validation_source": str(tmp_path / "other.csv")}
    other = prepare_held_out(trained.model_copy(update=update), first)
    assert (other.num_rows, other.num_train_rows, other.labels) == (1, 0, ("9", "10"))
    assert other.tokens().tolist() == first.tokenizer_used().encode("abcabc")
    assert other.classes().tolist() == [1]
    samples = Classification(other, 8, "validation")
    assert samples.batch(np.array([0]), 1).targets_BT.tolist() == [1]
    (tmp_path / "other.csv").write_text("text,label\nabc,11\n")
    with pytest.raises(UserError, match="class '11' in column 'label' is held out and never trained on"):
        prepare_held_out(trained.model_copy(update=update), first)


def test_a_sample_of_a_pair_knows_its_row(pairs: DataConfig) -> None:
    """The first held-out pair does not fit, so that the first sample is the second row."""
    data = pairs.model_copy(update={"validation_fraction": 0.5})
    samples = Translation(prepare_rows(data), 8, "validation")
    assert (samples.num_samples, samples.row_of(0)) == (1, 1)
    assert samples.references[samples.row_of(0)] == "U"
