"""Modal up to the network: the app as built, a function's body by Modal's own local execution, and the bookkeeping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.launch.test_jobs import cells
from worldsize.config.load import Loaded
from worldsize.errors import RunError, UserError
from worldsize.launch.jobs import Job, jobs_by_cell, shapes_of, without_launch
from worldsize.launch.modal import Modal, packed, unpack
from worldsize.launch.records import JobRecord
from worldsize.study.grid import load_cells

modal = pytest.importorskip("modal")

SMALL = [
    "train.steps=8", "model.num_layers=1", "model.d_model=32", "model.num_heads=2", "model.context_length=32",
    "data.max_bytes=100000", "train.eval_samples=4", "measure.probe_rounds=0", "measure.trace_steps=0",
    "measure.matmul=false", "measure.warmup_steps=2", "optimizer.warmup_steps=2",
]  # fmt: skip


def study(out: Path, *overrides: str, gpus: bool = False) -> tuple[Modal, list[Job], dict[str, Loaded]]:
    grid = cells([1, 2], [8])
    loaded = load_cells(grid, None, [*SMALL, *overrides])
    jobs = jobs_by_cell(grid, shapes_of([1], [1, 2]), repeats=2)
    stripped = {name: without_launch(each) for name, each in loaded.items()}
    return Modal(out, loaded["n1-b8"].config, stripped, jobs, has_gpus=gpus), jobs, stripped


def test_each_cell_asks_for_its_gpus_and_time(tmp_path: Path) -> None:
    engine, jobs, _ = study(tmp_path / "s", "launch.gpu=H100", 'launch.time="30"', gpus=True)
    assert [engine.options(job) for job in jobs] == [
        {"name": "n1-b8", "timeout": 1800, "cpu": 1.0, "gpu": "H100:1"},
        {"name": "n2-b8", "timeout": 1800, "cpu": 2.0, "gpu": "H100:2"},
    ]
    shown = yaml.safe_load(engine.render(jobs[1], jobs[1].runs))
    assert shown["function"]["gpu"] == "H100:2"
    assert shown["runs"] == ["runs/n2-b8/r1", "runs/n2-b8/r2"]
    assert any(package.startswith("torch==") for package in shown["image"]["packages"])
    assert not any("+" in package for package in shown["image"]["packages"])


def test_what_modal_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--gpu H100"):
        study(tmp_path, gpus=True)
    grid = cells([1, 2], [8])
    loaded = load_cells(grid, None, SMALL)
    jobs = jobs_by_cell(grid, shapes_of([1, 2], [1]), repeats=1)
    with pytest.raises(UserError, match="--nodes 1"):
        Modal(tmp_path, loaded["n1-b8"].config, loaded, jobs, has_gpus=False)


def test_a_functions_body_trains_and_its_runs_come_back(tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text("".join(f"Chapter {i}: it rises by {i * i % 97}.\n" for i in range(4000)))
    engine, jobs, _ = study(tmp_path / "s", f"data.source={text}")
    _, functions = engine.app()
    assert set(functions) == {"n1-b8", "n2-b8"}
    payload = engine.payload(jobs[1], jobs[1].runs[:1])
    assert payload["config"]["data"]["source"] == "/root/worldsize-data/source-book.txt"
    payload["config"]["data"]["source"] = str(text)  # this machine is where the body runs
    output = functions["n2-b8"].local(payload)
    assert output["failures"] == {}
    unpack(output["runs"]["runs/n2-b8/r1"], tmp_path / "back")
    result = json.loads((tmp_path / "back/result.json").read_text())
    assert (result["world_size"], result["num_steps"], result["num_samples"]) == (2, 8, 64)
    assert {path.name for path in (tmp_path / "back").iterdir()} == {
        "run.json", "result.json", "steps.rank0.jsonl", "steps.rank1.jsonl",
    }  # fmt: skip


def test_a_run_that_fails_there_is_told_of(tmp_path: Path) -> None:
    engine, jobs, _ = study(tmp_path / "s")
    payload = engine.payload(jobs[0], jobs[0].runs[:1])
    payload["config"]["data"]["source"] = str(tmp_path / "nowhere.txt")
    output = engine.app()[1]["n1-b8"].local(payload)
    assert output["runs"] == {}
    assert "nowhere.txt" in output["failures"]["runs/n1-b8/r1"]


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../escaped"))
    with pytest.raises(tarfile.OutsideDestinationError):
        unpack(buffer.getvalue(), tmp_path / "run")
    assert not (tmp_path / "escaped").exists()


class Calls:
    """Stands in for Modal's servers: what was deployed and called, and what each call answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.deployed: list[str] = []
        self.spawned: list[tuple[str, str, list[str]]] = []
        self.answer: Any = TimeoutError()
        calls = self

        class Function:
            def __init__(self, app: str, name: str) -> None:
                self.app, self.name = app, name

            def spawn(self, payload: dict[str, Any]) -> Any:
                calls.spawned.append((self.app, self.name, payload["runs"]))
                return type("Call", (), {"object_id": f"fc-{len(calls.spawned)}"})

        class Call:
            def get(self, timeout: float) -> Any:
                assert timeout == 0
                if isinstance(calls.answer, Exception):
                    raise calls.answer
                return calls.answer

        monkeypatch.setattr(modal.App, "deploy", lambda app, name: self.deployed.append(name))
        monkeypatch.setattr(modal.Function, "from_name", lambda app, name: Function(app, name))
        monkeypatch.setattr(modal.FunctionCall, "from_id", lambda _: Call())


def test_calls_are_made_once_deployed_and_followed_by_their_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    engine, jobs, _ = study(tmp_path / "s")
    ids = [engine.submit(job, job.runs) for job in jobs]
    assert ids == ["fc-1", "fc-2"]
    assert calls.deployed == ["worldsize-s"]
    assert [name for _, name, _ in calls.spawned] == ["n1-b8", "n2-b8"]
    record = JobRecord(name="n1-b8", num_nodes=1, ranks_per_node=1, runs=["runs/n1-b8/r1"], id="fc-1")
    assert engine.poll([record])["n1-b8"].phase == "running"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/result.json").write_text("{}")
    calls.answer = {"runs": {"runs/n1-b8/r1": packed(tmp_path / "run")}, "failures": {"runs/n1-b8/r2": "no memory"}}
    assert engine.poll([record])["n1-b8"].phase == "ended"
    engine.collect(record)
    assert (tmp_path / "s/runs/n1-b8/r1/result.json").read_text() == "{}"
    assert engine.explain(record) == "Modal call fc-1: runs/n1-b8/r2: no memory"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (modal.exception.FunctionTimeoutError("x"), "past its time limit"),
        (modal.exception.OutputExpiredError("x"), "are gone"),
        (ValueError("CUDA error: no kernel image"), "ValueError: CUDA error"),
    ],
)
def test_calls_that_end_badly_say_how(
    answer: Exception, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    engine, _, _ = study(tmp_path)
    calls.answer = answer
    record = JobRecord(name="n1-b8", num_nodes=1, ranks_per_node=1, runs=["runs/n1-b8/r1"], id="fc-9")
    assert engine.poll([record])["n1-b8"].phase == "ended"
    assert words in engine.explain(record)


def test_a_refusal_of_modal_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, jobs, _ = study(tmp_path)

    def refuse(app: object, name: str) -> None:
        raise modal.exception.AuthError("Token missing")

    monkeypatch.setattr(modal.App, "deploy", refuse)
    with pytest.raises(RunError, match=r"Token missing.*modal setup"):
        engine.submit(jobs[0], jobs[0].runs)
