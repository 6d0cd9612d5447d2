"""generate, evaluate, export and profile on a run of two ranks' making, and on what was exported from it."""

from __future__ import annotations

import gzip
import json
import math
import pstats
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from worldsize.__main__ import main
from worldsize.inference.open_model import open_model

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

pytestmark = pytest.mark.usefixtures("one_thread", "warm_ranks")
SMALL = [
    "model.num_layers=1", "model.d_model=32", "model.num_heads=2", "model.context_length=32", "train.steps=6",
    "train.global_batch=4", "train.eval_samples=400", "measure.warmup_steps=1", "measure.window_steps=2",
    "measure.probe_rounds=0", "measure.trace_steps=0", "measure.matmul=false", "checkpoint.every_steps=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(
        "".join(f"Line {i} of a böök that {'rises' if i % 3 else 'falls'} by {i * i % 97}.\n" for i in range(900))
    )
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, book: Path) -> Path:
    """A run sharded over two ranks: its checkpoints hold half a tensor a file."""
    out = tmp_path_factory.mktemp("runs") / "run"
    data = [f"data.source={book}", "data.tokenizer=bpe:300"]
    assert main(["train", "--out", str(out), "--nproc", "2", "parallel.strategy=fsdp", *SMALL, *data]) == 0
    return out


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.slow
def test_the_checkpoint_has_the_loss_that_the_run_had(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stride = context cuts the text as training's evaluation does, which leaves out an incomplete last sample."""
    theirs = json.loads((run / "result.json").read_text())["evaluations"][-1]["loss"]
    ours = answer(capsys, "evaluate", run, "--stride", 32)
    assert ours["model"].endswith("step-00000006")
    opened = open_model(run)
    held_out = ours["num_tokens"] - ours["num_tokens"] % 32
    assert held_out > 200
    assert ours["perplexity"] == pytest.approx(math.exp(ours["loss"]))
    assert ours["bits_per_byte"] == pytest.approx(ours["loss"] * ours["num_tokens"] / math.log(2) / ours["num_bytes"])
    assert ours["loss"] == pytest.approx(theirs, abs=0.02)
    assert opened.config is not None


@pytest.mark.slow
def test_every_token_is_predicted_once_from_its_own_past(
    run: Path, book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against one forward a token, through the training module."""
    found = answer(capsys, "evaluate", run, "--data", book, "--max-bytes", 300, "--stride", 5)
    opened = open_model(run)
    text = book.read_bytes()[:300].decode(errors="ignore")
    ids = torch.tensor(opened.needs_tokenizer().encode(text))
    decoder, losses = opened.decoder(), []
    for place in range(1, len(ids)):
        begin = max(0, -(-(place - 32) // 5) * 5)  # the first window, of those every 5 tokens, that predicts it
        with torch.no_grad():
            logits_TV = decoder(ids[begin : begin + 32].unsqueeze(0))[0]
        losses.append(float(F.cross_entropy(logits_TV[place - begin - 1], ids[place])))
    assert found["num_tokens"] == len(losses)
    assert found["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    first = opened.needs_tokenizer().decode([int(ids[0])])
    assert found["num_bytes"] == len(text.encode()) - len(first.encode())


@pytest.mark.slow
def test_export_and_use_what_was_exported(
    run: Path, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = answer(capsys, "export", run, "--out", tmp_path / "hf")
    assert exported["step"] == 6
    assert exported["size_bytes"] == sum(file.stat().st_size for file in (tmp_path / "hf").iterdir())
    assert (
        4 * exported["num_parameters"] < exported["files_bytes"]["model.safetensors"] < 4.2 * exported["num_parameters"]
    )
    answer(
        capsys, "export", run / "checkpoints" / "step-00000006", "--format", "safetensors", "--out", tmp_path / "ours"
    )
    options = ["--prompt", "Line 5 of", "--prompt", "a", "--new-tokens", 9]
    texts = [
        answer(capsys, "generate", model, *options)["outputs"] for model in (run, tmp_path / "hf", tmp_path / "ours")
    ]
    assert texts[0] == texts[1] == texts[2]
    assert [len(output["tokens"]) for output in texts[0]] == [9, 9]
    assert main(["generate", str(run), "--prompt", "Line 5 of", "--prompt", "a", "--new-tokens", "9"]) == 0
    out, err = capsys.readouterr()
    assert out == f"Line 5 of{texts[0][0]['text']}\n\na{texts[0][1]['text']}\n"
    assert "new tokens/s" in err


@pytest.mark.slow
def test_profiles_of_both_kinds(run: Path, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = answer(capsys, "profile", f"data.source={book}", *SMALL, "--steps", 2, "--out", tmp_path / "training")
    assert any("backward" in operator["name"] for operator in training["operators"])
    writing = answer(
        capsys, "profile", run, "--steps", 2, "--new-tokens", 3, "--prompt-tokens", 4, "--out", tmp_path / "writing",
        "--rows", 200,
    )  # fmt: skip
    assert sum(operator["share"] for operator in writing["operators"]) == pytest.approx(1)
    calls = {function["name"].split("(")[-1]: function["calls"] for function in writing["functions"]}
    assert calls["prefill)"] == 2
    assert calls["decode)"] == 2 * 2  # the first of three tokens is the prefill's
    with gzip.open(tmp_path / "writing" / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    assert sum(event["name"] == "worldsize.step" and event.get("cat") == "user_annotation" for event in events) == 2
    assert pstats.Stats(str(tmp_path / "writing" / "profile.pstats")).total_calls > 100  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "nowhere", "--prompt", "x"], "there is no model 'nowhere'. MODEL is a run's folder"),
        (["evaluate", "nowhere"], "there is no model 'nowhere'"),
        (["export", "nowhere", "--out", "x"], "there is no model 'nowhere'"),
        (["generate", ".", "--prompt", "x", "--top-k", "3"], "change nothing at temperature 0"),
        (["generate", ".", "--prompt", "x", "--new-tokens", "0"], "must be at least 1"),
        (["profile", ".", "train.steps=3"], "is a model's folder: overrides and --preset belong to a config"),
        (["profile", "--steps", "0"], "must be at least 1"),
    ],
)
def test_bad_input(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_run_without_checkpoints_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert main(["generate", str(tmp_path), "--prompt", "x"]) == 2
    assert "Train it again with checkpoint.every_steps=100" in capsys.readouterr().err.replace("\n", " ")
