"""Whole runs of each task through the launcher: the same quality on one rank and on two, and what the record says."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from worldsize.config.load import load
from worldsize.config.rules import check
from worldsize.data.row_file import prepare_rows
from worldsize.errors import UserError
from worldsize.launch.local import launch
from worldsize.records import RunRecord, RunResult
from worldsize.report.html import render
from worldsize.study.results import from_runs

ROOT = Path(__file__).parents[2]
SMALL = [
    "model.num_layers=1", "model.d_model=32", "model.num_heads=2", "model.context_length=32", "train.global_batch=8",
    "measure.warmup_steps=1", "measure.probe_rounds=1", "measure.trace_steps=1", "measure.matmul=false",
    "device.kind=cpu", "device.pin=false",
]  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_ranks")]


def run(folder: Path, world_size: int, overrides: list[str], config: Path | None = None) -> RunResult:
    launch(load(config, [*SMALL, *overrides]), world_size=world_size, out=folder, command=["test"])
    return RunResult.model_validate_json((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose class is told by one of their words."""
    folder = tmp_path_factory.mktemp("animals")
    draw = random.Random(0)
    words = {"cat": ["purr", "meow"], "dog": ["bark", "woof"], "cow": ["moo", "milk"]}
    lines = ["text,label"]
    for _ in range(240):
        label = draw.choice(list(words))
        filler = draw.choices(["a", "the", "of", "and"], k=draw.randint(0, 4))
        lines.append(f"{' '.join(draw.sample([*filler, draw.choice(words[label])], len(filler) + 1))},{label}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder / "rows.csv"


def test_a_classifier_learns_the_same_on_one_rank_and_on_two(animals: Path, tmp_path: Path) -> None:
    overrides = ["data.task=classification", f"data.source={animals}", "data.validation_fraction=0.2",
                 "train.steps=40", "train.eval_samples=47", "optimizer.learning_rate=5e-3"]  # fmt: skip
    one = run(tmp_path / "one", 1, overrides)
    sharded = run(tmp_path / "sharded", 2, [*overrides, "parallel.strategy=fsdp", "train.micro_batch=2"])
    cut = run(tmp_path / "cut", 2, [*overrides, "parallel.strategy=tensor"])
    rows = prepare_rows(load(None, overrides).config.data)
    for result in (one, sharded, cut):
        quality = result.evaluations[-1].classification
        assert quality is not None
        assert quality.labels == ["cat", "cow", "dog"]
        assert sum(map(sum, quality.confusion)) == 47
        held_out = rows.classes()[rows.num_train_rows :][:47]
        assert [sum(line) for line in quality.confusion] == [int((held_out == k).sum()) for k in range(3)]
        assert quality.accuracy > 0.9
        assert result.evaluations[-1].perplexity is None
        assert result.communication_bytes.observed == result.communication_bytes.predicted
    for other in (sharded, cut):
        assert other.losses == pytest.approx(one.losses, rel=1e-4)
        assert other.evaluations[-1].classification == one.evaluations[-1].classification
        assert other.samples_digest == one.samples_digest
    assert (one.num_tokens, one.num_samples) == (sharded.num_tokens, 40 * 8)
    assert one.losses[0] == pytest.approx(math.log(3), rel=0.05)  # per row, not per token
    page = render(from_runs([tmp_path / "one", tmp_path / "sharded"]), None)
    for said in ("Quality on held-out data", "accuracy", "macro F1", "Confusion matrix"):
        assert said in page


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Pairs that translate word by word."""
    folder = tmp_path_factory.mktemp("numbers")
    draw = random.Random(1)
    for name, count in (("train", 300), ("held_out", 12)):
        drawn = [draw.choices("abcd", k=draw.randint(1, 3)) for _ in range(count)]
        (folder / f"{name}.src").write_text("".join("".join(word) + "\n" for word in drawn))
        (folder / f"{name}.tgt").write_text("".join("".join(word).upper() + "\n" for word in drawn))
    return [
        "data.task=translation", f"data.source={folder / 'train.src'}", f"data.target_source={folder / 'train.tgt'}",
        f"data.validation_source={folder / 'held_out.src'}",
        f"data.validation_target_source={folder / 'held_out.tgt'}", "data.packing=true",
    ]  # fmt: skip


def test_a_translation_is_the_same_from_one_rank_and_from_two(numbers: list[str], tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    overrides = [*numbers, "train.steps=60", "optimizer.learning_rate=1e-2", "train.eval_samples=4"]
    one = run(tmp_path / "one", 1, [*overrides, "train.eval_beams=3"])
    two = run(tmp_path / "two", 2, [*overrides, "train.eval_beams=3", "parallel.strategy=fsdp"])
    assert two.losses == pytest.approx(one.losses, rel=1e-3)
    assert two.samples_digest == one.samples_digest
    assert two.num_tokens == one.num_tokens > 0
    for result in (one, two):
        scores = result.evaluations[-1].translation
        assert scores is not None
        assert (scores.num_sentences, scores.num_beams) == (12, 3)
        assert scores.chrf > 15
        assert scores.bleu_signature.startswith("nrefs:1|")
        assert all(reference == source.upper() for source, _, reference in scores.examples)
    assert one.evaluations[-1].translation is not None
    assert two.evaluations[-1].translation is not None
    assert two.evaluations[-1].translation.chrf == pytest.approx(one.evaluations[-1].translation.chrf, abs=5)
    record = RunRecord.model_validate_json((tmp_path / "one" / "run.json").read_text())
    assert record.config["model"]["vocab_size"] == 320  # 256 bytes and the end token, rounded up
    assert "sacrebleu" in render(from_runs([tmp_path / "one", tmp_path / "two"]), None)


def test_a_language_model_is_told_in_bits_per_byte(tmp_path: Path) -> None:
    overrides = ["data.max_bytes=60000", "train.steps=4", "train.eval_samples=8"]
    last = run(tmp_path / "bytes", 1, overrides).evaluations[-1]
    assert last.perplexity == pytest.approx(math.exp(last.loss))
    assert last.bits_per_byte == pytest.approx(last.loss / math.log(2), rel=0.02)  # a token is a byte, but for its ends
    pytest.importorskip("tokenizers")
    coarse = run(tmp_path / "bpe", 1, [*overrides, "data.tokenizer=bpe:512"]).evaluations[-1]
    assert coarse.bits_per_byte is not None
    assert coarse.bits_per_byte < 0.9 * coarse.loss / math.log(2)  # a token is more than a byte


@pytest.mark.hf
def test_a_hugging_face_model_runs_whole(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    shape = "{model_type: gpt2, n_layer: 1, n_embd: 32, n_head: 2, n_positions: 32}"
    overrides = [f"model.hf_config={shape}", "data.max_bytes=60000", "train.steps=4", "train.eval_samples=4"]
    one = run(tmp_path / "one", 1, overrides)
    two = run(tmp_path / "two", 2, [*overrides, "parallel.strategy=fsdp"])
    assert two.losses == pytest.approx(one.losses, rel=1e-4)
    assert two.communication_bytes.observed == two.communication_bytes.predicted
    record = RunRecord.model_validate_json((tmp_path / "one" / "run.json").read_text())
    assert record.config["model"]["hf_config"]["n_embd"] == 32
    assert "hf_config" in render(from_runs([tmp_path / "one", tmp_path / "two"]), None)
    assert record.num_parameters == 256 * 32 + 32 * 32 + 12 * 32**2 + 13 * 32 + 2 * 32


def test_the_examples_train_on_a_cut_of_the_real_data(shared_data: Path, tmp_path: Path) -> None:
    for module in ("tokenizers", "sacrebleu"):
        pytest.importorskip(module)
    news = shared_data / "ag_news"
    cut = ["train.steps=6", "train.eval_samples=40", "optimizer.warmup_steps=2"]
    overrides = [f"data.source={news / 'train_subset.csv.xz'}", f"data.validation_source={news / 'test.csv.xz'}"]
    result = run(tmp_path / "news", 1, [*cut, *overrides, "data.max_bytes=100000", "data.tokenizer=bpe:512"],
                 ROOT / "examples" / "ag_news.yaml")  # fmt: skip
    assert result.evaluations[-1].classification is not None
    assert result.evaluations[-1].classification.labels == ["1", "2", "3", "4"]
    folder = shared_data / "multi30k_de_en"
    overrides = [f"data.source={folder / 'train.de.gz'}", f"data.target_source={folder / 'train.en.gz'}",
                 f"data.validation_source={folder / 'val.de.gz'}",
                 f"data.validation_target_source={folder / 'val.en.gz'}", "data.max_bytes=60000",
                 "data.tokenizer=bpe:512", "model.context_length=128", "train.eval_translations=4"]  # fmt: skip
    result = run(tmp_path / "captions", 2, [*cut, *overrides], ROOT / "examples" / "multi30k.yaml")
    assert result.evaluations[-1].translation is not None
    assert result.evaluations[-1].translation.num_sentences == 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.task=classification"], "data.source=python-stdlib has none"),
        (["data.task=translation", "data.source=a", "model.kind=encoder"], "needs model.kind=decoder, but"),
        (["data.packing=true", "data.task=translation", "data.source=a", "data.target_source=b",
          "data.validation_source=c"], "go together"),
        (["model.hf=x", "model.hf_config={model_type: gpt2}"], "leave one of them unset"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said_before_anything_runs(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(load(None, overrides).config, 1)
