"""The remedies' table, and what the report calls emulated hosts."""

from __future__ import annotations

from pathlib import Path

from tests.study.synthetic import make_study
from tests.study.synthetic_work import phases_of
from worldsize.records import Measured
from worldsize.report.machine import facts
from worldsize.report.method import definitions
from worldsize.report.remedy_table import remedies
from worldsize.study.records import RemedyTrial, RunFailure, StudyResult
from worldsize.study.results import analyse

NETWORK = {"num_hosts": 2, "link_bit_per_s": 1e9, "latency_s": 0.0, "all_reduce_bit_per_s": 9.5e8}


def study(folder: Path) -> StudyResult:
    fault = {"phases": phases_of(2, 64), "environment": {"emulated": NETWORK}}
    result = analyse(make_study(folder, faults={"n2-b64": fault}, noise=0.0))
    assert result.environment is not None
    return result


def test_a_trial_keeps_its_figures_and_a_failure_its_reason() -> None:
    good = RemedyTrial(
        cell="n2-b64", remedy="powersgd", what="PowerSGD", overrides=[], runs=["r"], payload_bytes=250_000,
        speedup=Measured(median=1.5, low=1.4, high=1.6, samples=[1.4, 1.5, 1.6]), exposed_communication_share=0.125,
        changes_arithmetic=True, loss=2.01, baseline_loss=2.0, loss_change=0.005,
    )  # fmt: skip
    failed = RemedyTrial(
        cell="n2-b64", remedy="diloco", what="DiLoCo", overrides=[], runs=[],
        failures=[RunFailure(run="runs/x/r1", reason="the disk is full")],
    )  # fmt: skip
    table = remedies([good, failed])
    texts = {column.key: [value.text for value in column.values] for column in table.columns}
    assert texts["speedup"] == ["1.50", "not known"]
    assert texts["payload_bytes"][0] == "0.250"
    assert texts["loss"] == ["2.0100", "not known"]
    assert texts["loss_change"][0] == "+0.50"
    assert texts["arithmetic"] == ["another", "not known"]
    assert "Not known: because the run failed: the disk is full." in table.notes


def test_emulated_hosts_are_called_what_they_are(tmp_path: Path) -> None:
    result = study(tmp_path)
    environment = result.environment
    assert environment is not None
    network = dict(facts(environment))["Network"]
    assert network.startswith("Gloo between 2 emulated hosts on one machine, links of 1 Gbit/s; an all-reduce before")
    assert "reached 950 Mbit/s" in network
    terms = {definition.term for definition in definitions(result)}
    assert "Emulated hosts" in terms
    assert "Gloo on one host" not in terms
    assert any("emulated hosts" in line for line in result.verdict.evidence)
    assert not any("Gloo on one host" in line for line in result.verdict.evidence)
