"""evaluate and quantize of a classifier and of a model that translates, against what training itself found."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_models import answer
from tests.cli.test_quantize import trained
from worldsize.__main__ import main
from worldsize.inference.open_model import open_model
from worldsize.inference.translate import longest_of, translate

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread", "warm_ranks")]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tells three classes by one word of a text; a fifth of the texts lack that word."""
    folder = tmp_path_factory.mktemp("reviews")
    draw = random.Random(0)
    words = {"cat": ["purr", "meow"], "dog": ["bark", "woof"], "cow": ["moo", "milk"]}
    for name, count in (("rows", 300), ("more", 40)):
        lines = ["text,label"]
        for _ in range(count):
            label = draw.choice(list(words))
            word = draw.choice(words[label]) if draw.random() < 0.8 else "the"
            lines.append(f"the {word} of {draw.choice('abc')},{label}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    data = ["data.task=classification", f"data.source={folder / 'rows.csv'}", "data.validation_fraction=0.2"]
    more = ["data.tokenizer=bpe:300", "optimizer.learning_rate=5e-3", "train.eval_samples=60", "train.global_batch=16"]
    return trained(folder / "run", *data, *more)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has nearly learned to write words in capitals."""
    pytest.importorskip("sacrebleu")
    folder = tmp_path_factory.mktemp("pairs")
    draw = random.Random(1)
    for name, count in (("train", 300), ("held_out", 12), ("other", 6)):
        drawn = [draw.choices(["ab", "cd", "ef"], k=draw.randint(3, 5)) for _ in range(count)]
        (folder / f"{name}.src").write_text("".join(" ".join(words) + "\n" for words in drawn))
        (folder / f"{name}.tgt").write_text("".join(" ".join(words).upper() + "\n" for words in drawn))
    data = [f"data.{key}={folder / name}" for key, name in (
        ("source", "train.src"), ("target_source", "train.tgt"), ("validation_source", "held_out.src"),
        ("validation_target_source", "held_out.tgt"))]  # fmt: skip
    more = ["data.task=translation", "data.packing=true", "optimizer.learning_rate=1e-2", "train.eval_samples=4"]
    return trained(folder / "run", *data, *more)


def evaluations(run: Path) -> dict[str, Any]:
    last: dict[str, Any] = json.loads((run / "result.json").read_text())["evaluations"][-1]
    return last


def test_a_classifier_is_judged_as_training_did(reviews: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = evaluations(reviews)
    ours = answer(capsys, "evaluate", reviews)
    assert ours["num_texts"] == 60
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert ours["confusion"] == theirs["classification"]["confusion"]
    assert ours["accuracy"]["value"] == pytest.approx(theirs["classification"]["accuracy"])
    assert ours["macro_f1"]["value"] == pytest.approx(theirs["classification"]["macro_f1"])
    for figure in (ours["accuracy"], ours["macro_f1"]):
        assert figure["low"] < figure["value"] < figure["high"]
    assert main(["evaluate", str(reviews)]) == 0
    said = capsys.readouterr().out
    assert f"accuracy    {ours['accuracy']['value']:.4f} (" in said
    assert "true \\ found  cat  cow  dog" in said


def test_a_quantized_classifier_is_compared_text_by_text(
    reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = reviews.parent / "more.csv"
    found = answer(capsys, "quantize", reviews, "--method", "int4-all", "--data", other, "--out", tmp_path / "small")
    assert (found["quality"], found["num_predictions"], found["labels"]) == ("accuracy", 40, ["cat", "cow", "dog"])
    original = answer(capsys, "evaluate", reviews, "--data", other)
    for row in found["rows"]:
        assert row["original"] == pytest.approx(original["accuracy"]["value"])
        assert row["more"][0]["original"] == pytest.approx(original["macro_f1"]["value"])
        assert 0 < row["kl"] < 0.05
        assert row["share_quantized"] > 0.9
        again = answer(capsys, "evaluate", row["folder"], "--data", other)  # from the folder, with its own tokenizer
        assert again["method"] == row["method"]
        assert again["confusion"] == row["confusion"]
        assert again["accuracy"]["value"] == pytest.approx(row["quantized"])
        assert again["macro_f1"]["value"] == pytest.approx(row["more"][0]["quantized"])
        assert row["difference"]["value"] == pytest.approx(row["quantized"] - row["original"])
        assert row["difference"]["low"] <= row["difference"]["value"] <= row["difference"]["high"]


def test_translations_are_scored_as_training_did(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = evaluations(pairs)["translation"]
    ours = answer(capsys, "evaluate", pairs)
    assert (ours["num_sentences"], ours["num_beams"]) == (12, 1)
    assert ours["examples"] == theirs["examples"]
    for name in ("bleu", "chrf"):
        assert ours[name]["value"] == pytest.approx(theirs[name])
        assert ours[f"{name}_signature"] == theirs[f"{name}_signature"]
        assert ours[name]["low"] <= ours[name]["value"] <= ours[name]["high"]
    assert ours["chrf"]["value"] > 15


def test_a_quantized_translator_is_compared_sentence_by_sentence(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The original once more in this process, through the training module."""
    rows = pairs.parent / "other"
    other = ["--data", rows.with_suffix(".src"), "--target-data", rows.with_suffix(".tgt")]
    found = answer(capsys, "quantize", pairs, "--method", "int8", *other, "--out", tmp_path / "int8")
    (row,) = found["rows"]
    assert (found["quality"], found["num_windows"], row["more"][0]["name"]) == ("BLEU", 6, "chrF")
    lines = [line.encode() for line in rows.with_suffix(".tgt").read_text().splitlines()]
    assert found["num_predictions"] == sum(len(line) + 1 for line in lines)  # bytes, and the end of each
    sources = [list(line) for line in rows.with_suffix(".src").read_bytes().splitlines()]
    written = translate(open_model(pairs).decoder(), sources, 256, list(map(longest_of, sources)))
    sacrebleu = pytest.importorskip("sacrebleu")
    texts = [bytes(i for i in ids if i < 256).decode(errors="replace").strip() for ids in written]
    references = [[line.decode() for line in lines]]
    assert row["original"] == pytest.approx(sacrebleu.corpus_bleu(texts, references).score)
    assert row["more"][0]["original"] == pytest.approx(sacrebleu.corpus_chrf(texts, references).score)
    again = answer(capsys, "evaluate", tmp_path / "int8", *other)
    assert again["bleu"]["value"] == pytest.approx(row["quantized"])
    assert again["chrf"]["value"] == pytest.approx(row["more"][0]["quantized"])
    assert again["method"] == "int8"


def test_what_belongs_to_another_task_is_refused(
    reviews: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def complaint(*arguments: object) -> str:
        assert main(list(map(str, arguments))) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "--stride is of no use with classification" in complaint("evaluate", reviews, "--stride", 4)
    assert "--beams is of no use with classification" in complaint("evaluate", reviews, "--beams", 4)
    assert "is a classifier. Leave it out" in complaint("evaluate", reviews, "--data", "x", "--target-data", "y")
    assert "say more of --data, which is not given" in complaint("evaluate", pairs, "--target-data", "y")
    assert "is a classifier" in complaint("generate", reviews, "--prompt", "a")
