"""`worldsize train` under torchrun on several hosts, and the host where they meet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.test_modal import SMALL
from worldsize.errors import UserError
from worldsize.launch.local import free_port
from worldsize.launch.rendezvous import check_rendezvous


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}


@pytest.mark.slow
def test_two_agents_train_one_run(tmp_path: Path) -> None:
    port = free_port()
    agents = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--node-rank",
             str(node), "--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "worldsize", "train", *SMALL,
             "device.pin=false", "--out", str(tmp_path / "run")],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for node in range(2)
    ]  # fmt: skip
    said = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(said)
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["world_size"], result["num_samples"]) == (2, 8 * 32)


def test_a_rendezvous_host_that_does_not_resolve_ends_the_run_at_once(tmp_path: Path) -> None:
    ranks = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_PORT": "1",
        "MASTER_ADDR": "no-such-host.invalid",
    }
    done = subprocess.run(
        [sys.executable, "-m", "worldsize", "train", *SMALL, "--out", str(tmp_path / "run")],
        env={**environment(), **ranks}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "the rendezvous host 'no-such-host.invalid' (MASTER_ADDR) does not resolve on" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_rank_without_a_rendezvous_host_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="MASTER_ADDR is not"):
        check_rendezvous()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    check_rendezvous()
