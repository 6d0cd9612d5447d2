"""`worldsize quantize` as people use it: saved, loaded in a new process, compared; refused where it would not help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.cli.test_models import SMALL, answer
from tests.inference.models import hf_gpt2
from worldsize.__main__ import main
from worldsize.inference.open_model import open_model
from worldsize.inference.quantization_records import REPORT, QuantizationReport

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")
pytestmark = pytest.mark.usefixtures("one_thread", "warm_ranks")
SHAPE = [
    "model.d_model=64", "model.num_layers=2", "train.steps=60", "train.global_batch=8", "checkpoint.every_steps=60",
]  # fmt: skip


def trained(out: Path, *overrides: str) -> Path:
    named = {word.split("=")[0] for word in (*SHAPE, *overrides)}
    small = [word for word in SMALL if word.split("=")[0] not in named]
    assert main(["train", "--out", str(out), *small, *SHAPE, *overrides]) == 0
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantize")
    lines = (f"Line {i} of a book that {'rises' if i % 3 else 'falls'} by {i * i % 97}.\n" for i in range(900))
    (folder / "book.txt").write_text("".join(lines))
    return trained(folder / "run", f"data.source={folder / 'book.txt'}", "data.tokenizer=bytes")


@pytest.mark.slow
def test_rows_say_what_the_folders_hold(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small"
    found = answer(capsys, "quantize", run, "--method", "fp32,int8,int4,torch-dynamic", "--windows", 9, "--out", out)
    assert json.loads((out / REPORT).read_text()) == found
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows) == ["fp32", "int8", "int4", "torch-dynamic"]
    assert found["refused"] == []
    assert (out / "quality_by_size.png").read_bytes()[:4] == b"\x89PNG"
    for name, row in rows.items():
        files = list((out / name).iterdir())
        assert sum(row["sizes"].values()) == sum(file.stat().st_size for file in files)
        assert not [file for file in files if file.suffix in (".pt", ".bin", ".pkl")]
        assert row["sizes"]["buffers_bytes"] == 0
        low, value, high = (row["difference"][end] for end in ("low", "value", "high"))
        assert low <= value <= high
        assert value == pytest.approx(row["quantized"] - row["original"], abs=1e-9)
    assert rows["fp32"]["kl"] == pytest.approx(0, abs=1e-9)
    assert rows["fp32"]["top1"] == 1
    assert rows["fp32"]["sizes"]["weights_bytes"] == rows["fp32"]["fp32_bytes"]
    assert 0 < rows["int8"]["kl"] < rows["int4"]["kl"] < 0.05
    sizes = [rows[name]["sizes"]["weights_bytes"] for name in ("int4", "int8", "torch-dynamic", "fp32")]
    assert sizes == sorted(sizes)


@pytest.mark.slow
def test_the_comparison_is_that_of_the_models(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once more, in this process: the original by the training module, the quantized one by evaluate."""
    text = tmp_path / "text.txt"
    text.write_text("Line 12 of a book that falls by 7. Line 13 of a book that rises by 12.\n" * 6)
    out = tmp_path / "int8"
    found = answer(capsys, "quantize", run, "--method", "int8", "--data", text, "--out", out)
    (row,) = found["rows"]
    ids = torch.tensor(list(text.read_bytes()))
    ids = ids[: (len(ids) - 1) // 32 * 32 + 1]
    with torch.no_grad():
        logits = open_model(run).decoder()(ids[:-1].view(-1, 32))[..., :256]
    loss = F.cross_entropy(logits.flatten(0, 1).double(), ids[1:])
    assert row["original"] == pytest.approx(float(loss.exp()), rel=1e-5)
    assert found["num_predictions"] == len(ids) - 1
    whole = answer(capsys, "evaluate", out, "--data", text, "--stride", 32)
    assert whole["method"] == "int8"
    assert whole["perplexity"] == pytest.approx(row["quantized"], rel=0.02)  # it takes the text's end along
    said = answer(capsys, "generate", out, "--prompt", "Line", "--new-tokens", 4)
    assert said["method"] == "int8"


@pytest.mark.slow
def test_a_damaged_or_foreign_use_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "int8"
    answer(capsys, "quantize", run, "--method", "int8", "--windows", 2, "--out", out)

    def complaint(*arguments: object) -> str:
        assert main(list(map(str, arguments))) == 2
        return capsys.readouterr().err

    assert "is there already" in complaint("quantize", run, "--method", "int8", "--out", out)
    assert "cannot be run as bf16" in complaint("generate", out, "--prompt", "a", "--method", "bf16")
    assert "is quantized (int8)" in complaint("export", out, "--out", tmp_path / "x")
    assert "is quantized (int8)" in complaint("quantize", out, "--method", "int4", "--out", tmp_path / "x")
    assert "Did you mean 'int4-all'" in complaint("quantize", run, "--method", "int4all", "--out", tmp_path / "x")
    assert "each method once" in complaint("quantize", run, "--method", "int8,int8", "--out", tmp_path / "x")
    described = json.loads((out / "worldsize.json").read_text())
    (out / "worldsize.json").write_text(json.dumps(described | {"quantized": "int4-all"}))
    assert "token_embedding.weight.scale_OG is missing" in complaint("evaluate", out, "--data", run)


@pytest.mark.slow
@pytest.mark.hf
def test_what_would_not_help_is_refused_with_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hugging Face's GPT-2, against what quantize_dynamic in truth makes of it."""
    transformers = pytest.importorskip("transformers")
    reference = hf_gpt2(vocab_size=300, n_embd=64)
    folder = tmp_path / "gpt2"
    reference.save_pretrained(folder)
    linear = [module for module in reference.modules() if isinstance(module, torch.nn.Linear)]
    blocks = [module for module in reference.modules() if isinstance(module, transformers.pytorch_utils.Conv1D)]
    assert (len(linear), len(blocks)) == (1, 8)
    before = sum(4 * parameter.numel() for parameter in reference.parameters())
    text = tmp_path / "text.txt"
    text.write_text("words " * 100)
    (folder / "tokenizer.json").write_text(_bytes_tokenizer())
    out = tmp_path / "out"
    assert main(["quantize", str(folder), "--method", "torch-dynamic", "--data", str(text), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    now = before + linear[0].weight.numel()  # the head's int8 copy; the embedding that it was tied to stays
    assert f"{now / 1e6:.1f} MB for {before / 1e6:.1f} MB in fp32" in said
    assert "Conv1D" in said
    assert not out.exists()
    found = answer(capsys, "quantize", folder, "--method", "int8,torch-dynamic", "--data", text, "--out", out)
    assert [row["method"] for row in found["rows"]] == ["int8"]
    assert [one["method"] for one in found["refused"]] == ["torch-dynamic"]
    report = QuantizationReport.model_validate(found)
    assert report.rows[0].size_ratio < 0.35


def _bytes_tokenizer() -> str:
    from worldsize.inference.tokenizer_files import _bytes_json

    return _bytes_json()


@pytest.mark.slow
def test_a_saved_folder_that_does_not_run_gives_no_row(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is spoilt before the other process reads it: no row, no folder, and the reason."""
    from worldsize.inference import quantize

    def spoilt(tensors: dict[str, torch.Tensor], folder: Path) -> None:
        tensors["final_norm.weight"] = tensors["final_norm.weight"] * float("nan")
        write(tensors, folder)

    write = quantize.write_tensors
    monkeypatch.setattr(quantize, "write_tensors", spoilt)
    assert main(["quantize", str(run), "--method", "int8", "--windows", "2", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "does not run when loaded again: its logits are not all finite" in said
    assert list(tmp_path.iterdir()) == []
