"""SkyPilot up to the network: its own parser reads the tasks, their commands run here, a fake `sky` answers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.launch.fakes import Programs
from tests.launch.test_jobs import cells
from tests.launch.test_modal import SMALL
from worldsize.errors import RunError, UserError
from worldsize.launch.jobs import Job, jobs_by_cell, shapes_of, without_launch, write_configs
from worldsize.launch.records import JobRecord
from worldsize.launch.sky import Sky
from worldsize.study.grid import load_cells

ROOT = Path(__file__).parents[2]
RECORD = JobRecord(
    name="n4-b8", num_nodes=2, ranks_per_node=2, runs=["runs/n4-b8/r1"], id="worldsize-s-n4-b8", state="running"
)
CATALOG = {
    "vms.csv": (
        "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,AvailabilityZone,Arch\n"
        "g4dn.12xlarge,T4,4.0,48.0,192.0,,3.9,1.5,us-east-1,us-east-1a,x86_64\n"
    ),
    "images.csv": "Tag,Region,OS,OSVersion,ImageId,CreationDate,BaseImageId\n",
    "instance_quota_mapping.csv": "InstanceType,QuotaCode,SpotInstanceCode\n",
}
"""A price list of one machine, which SkyPilot otherwise downloads."""
PARSE = """
import json, sys, sky
for path in sys.argv[1:]:
    task = sky.Task.from_yaml(path)
    resources, = task.resources
    print("TASK " + json.dumps([task.name, task.num_nodes, repr(resources), sorted(task.file_mounts), task.run]))
"""


def study(out: Path, *overrides: str, gpus: bool = True) -> tuple[Sky, Job]:
    grid = cells([4], [8])
    loaded = load_cells(grid, None, [*SMALL, *overrides])
    job = jobs_by_cell(grid, shapes_of([2], [2]), repeats=2)[0]
    stripped = {name: without_launch(each) for name, each in loaded.items()}
    write_configs(stripped, out)
    return Sky(out, loaded["n4-b8"].config, stripped, has_gpus=gpus), job


@pytest.mark.parametrize(
    ("overrides", "resources"),
    [
        (
            ["launch.cloud=aws", "launch.region=us-east-1", "launch.instance_type=g4dn.12xlarge"],
            {"infra": "aws/us-east-1", "instance_type": "g4dn.12xlarge"},
        ),
        (["launch.gpu=H100", "launch.spot=true"], {"accelerators": "H100:2", "use_spot": True}),
        (["launch.cloud=kubernetes", "launch.gpu=L4"], {"infra": "kubernetes", "accelerators": "L4:2"}),
    ],
)
def test_resources(overrides: list[str], resources: dict[str, object], tmp_path: Path) -> None:
    sky, job = study(tmp_path / "s", *overrides)
    task = yaml.safe_load(sky.render(job, job.runs))
    assert (task["name"], task["num_nodes"], task["resources"]) == ("worldsize-s-n4-b8", 2, resources)


def test_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--gpu H100, or --instance-type"):
        study(tmp_path)
    with pytest.raises(UserError, match="--cloud aws"):
        study(tmp_path, "launch.gpu=H100", "launch.region=us-east-1")


def sky_python() -> str | None:
    """Return an interpreter that has SkyPilot: $WORLDSIZE_SKY_PYTHON, .venv-sky beside .venv, or this one."""
    for candidate in (os.environ.get("WORLDSIZE_SKY_PYTHON"), str(ROOT / ".venv-sky/bin/python")):
        if candidate and Path(candidate).exists():
            return candidate
    return sys.executable if importlib.util.find_spec("sky") else None


@pytest.mark.slow
def test_skypilots_own_parser_takes_every_task(tmp_path: Path) -> None:
    python = sky_python()
    if python is None:
        pytest.skip("SkyPilot is not installed (it wants an environment of its own: CONTRIBUTING.md)")
    (tmp_path / "book.txt").write_text("text")
    paths = []
    for number, overrides in enumerate((
        ["launch.cloud=aws", "launch.region=us-east-1", "launch.instance_type=g4dn.12xlarge"],
        ["launch.cloud=gcp", "launch.gpu=H100", "launch.spot=true"],
        ["launch.cloud=azure", "launch.gpu=A100-80GB"],
        ["launch.cloud=kubernetes", "launch.gpu=L4", f"data.source={tmp_path / 'book.txt'}"],
    )):  # fmt: skip
        sky, job = study(tmp_path / f"s{number}", *overrides)
        cell = tmp_path / f"s{number}/jobs/n4-b8.sky-config.yaml"
        cell.write_text("")  # submitting writes it; SkyPilot looks whether what it is to copy is there
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(sky.render(job, job.runs))
    catalog = tmp_path / "home/.sky/catalogs/v8/aws"
    catalog.mkdir(parents=True)
    for name, text in CATALOG.items():
        (catalog / name).write_text(text)
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    done = subprocess.run([python, "-c", PARSE, *map(str, paths)], env=environment, capture_output=True, text=True,
                          timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    tasks = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("TASK ")]
    assert [(name, nodes) for name, nodes, *_ in tasks] == [(f"worldsize-s{n}-n4-b8", 2) for n in range(4)]
    expected = (["AWS", "g4dn.12xlarge"], ["GCP", "H100", "Spot"], ["Azure", "A100-80GB"], ["Kubernetes", "L4"])
    for words, (_, _, resources, *_) in zip(expected, tasks, strict=True):
        assert all(word in resources for word in words), resources
    assert "~/worldsize/worldsize-data/source-book.txt" in tasks[3][3]
    assert "torch.distributed.run --nnodes 2" in tasks[0][4]


@pytest.mark.slow
def test_a_tasks_commands_train_on_two_nodes(tmp_path: Path) -> None:
    sky, job = study(tmp_path / "s", "device.pin=false", "device.timeout_s=120", gpus=False)
    task = yaml.safe_load(sky.render(job, job.runs[:1]))
    homes = []
    for node in range(2):
        home = tmp_path / f"home{node}"
        (home / "worldsize/venv/bin").mkdir(parents=True)
        (home / "worldsize/src").mkdir()
        (home / "worldsize/venv/bin/python").write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
        (home / "worldsize/venv/bin/python").chmod(0o755)
        (home / "worldsize/src/worldsize").symlink_to(ROOT / "src/worldsize")
        (home / "worldsize/n4-b8.yaml").write_text((tmp_path / "s/jobs/n4-b8.yaml").read_text())
        homes.append(home)
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = task["run"].replace("train 29500 ", f"train {port} ")
    nodes = [
        subprocess.Popen(
            ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "HOME": str(home), "SKYPILOT_NODE_RANK": str(node),
                 "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"},
        )
        for node, home in enumerate(homes)
    ]  # fmt: skip
    said = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(said)
    run = homes[0] / "worldsize/runs/n4-b8/r1"
    assert json.loads((run / "result.json").read_text())["world_size"] == 4
    rows = {path.name for home in homes for path in (home / "worldsize/runs/n4-b8/r1").glob("steps.rank*")}
    assert len(rows) == 4


def test_a_task_is_submitted_followed_collected_and_taken_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, job = study(tmp_path / "s", "launch.gpu=H100")
    programs = Programs(tmp_path / "bin", monkeypatch)
    programs.answer("sky", "ok", code=101, script='[[ "$1" == logs && "$2" == --status ]] || exit 0')
    programs.answer("rsync")
    assert engine.submit(job, job.runs) == "worldsize-s-n4-b8"
    path = tmp_path / "s/jobs/n4-b8.sky.yaml"
    assert programs.calls("sky") == [
        f"launch --cluster worldsize-s-n4-b8 --detach-run --yes --down --idle-minutes-to-autostop 60 {path}"
    ]
    assert engine.poll([RECORD])["n4-b8"].phase == "running"
    programs.answer("sky", "the log", code=0)
    assert engine.poll([RECORD])["n4-b8"].phase == "ended"
    engine.collect(RECORD)
    target = f"{tmp_path / 's/runs'}/"
    assert programs.calls("rsync") == [
        f"--archive --compress --ignore-existing --mkpath {node}:worldsize/runs/ {target}"
        for node in ("worldsize-s-n4-b8", "worldsize-s-n4-b8-worker1")
    ]
    assert programs.calls("sky")[-1] == "down --yes worldsize-s-n4-b8"
    assert "the log" in engine.explain(RECORD)


@pytest.mark.parametrize(("code", "reason"), [(100, "failed"), (103, "cancelled")])
def test_ends_of_a_job(code: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = study(tmp_path, "launch.gpu=H100")
    Programs(tmp_path / "bin", monkeypatch).answer("sky", code=code)
    status = engine.poll([RECORD])["n4-b8"]
    assert (status.phase, status.reason) == ("ended", reason)


def test_a_cluster_that_stays_up_is_shouted_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = study(tmp_path, "launch.gpu=H100")
    programs = Programs(tmp_path / "bin", monkeypatch)
    programs.answer("rsync")
    programs.answer("sky", "no network", code=1, script='[ "$1" = down ] || exit 0')
    with pytest.raises(RunError, match=r"may still cost money: no network. Type: sky down worldsize-s-n4-b8"):
        engine.collect(RECORD)


def test_without_sky_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, job = study(tmp_path, "launch.gpu=H100")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no 'sky' on this machine"):
        engine.submit(job, job.runs)
