"""Files as people and tools write them; whatever is wrong is named by file, line and column."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.audit.published import EXAMPLES
from worldsize.audit.columns import ALIASES, COLUMNS, canonical
from worldsize.audit.judge import assemble, audit_rows
from worldsize.audit.paths import audit_paths
from worldsize.audit.read import read_rows
from worldsize.audit.records import Row
from worldsize.audit.render import markdown, text
from worldsize.errors import UserError


def rows_of(tmp_path: Path, content: str, name: str = "numbers.csv") -> list[Row]:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return read_rows(path)[0]


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    text = '\ufeff# a comment\nGPUs;Epoch Time (sec);"Tokens/s";speedup;per_rank_times_s;loss\n\n'
    text += "4;0:01:40.5;12,914.9;3.5x;1.5 2.5;n/a\n"
    [row] = rows_of(tmp_path, text)
    assert row == Row(
        where=row.where,
        devices=4,
        epoch_time_s=100.5,
        tokens_per_s=12914.9,
        claimed_speedup=3.5,
        per_rank_times_s=[1.5, 2.5],
    )
    assert row.where.endswith("numbers.csv, line 4")


def test_milliseconds_become_seconds(tmp_path: Path) -> None:
    [row] = rows_of(tmp_path, "devices\tstep_time_ms\n2\t12.5\n", "numbers.tsv")
    assert row.step_time_s == pytest.approx(0.0125)


def test_a_list_of_runs_with_times_per_epoch(tmp_path: Path) -> None:
    run = {"world_size": 4, "train_time_per_epoch": [31.0, 29.0, 30.0], "train_loss": [5.0, 4.0],
           "val_loss": [5.1, 4.3], "throughput": 1000.5, "config": {"anything": 1}}  # fmt: skip
    for tree in ([run], {"runs": [run]}, run):
        path = tmp_path / "metrics.json"
        path.write_text(json.dumps(tree))
        [row], notes = read_rows(path)
        assert row == Row(where=row.where, devices=4, epoch_time_s=30.0, first_loss=5.0, last_loss=4.0,
                          validation_loss=4.3, throughput=1000.5)  # fmt: skip
        assert notes == [f"{path}: not read: 'config'"]


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_a_row_an_epoch_becomes_one_row(tmp_path: Path, name: str) -> None:
    epochs: list[dict[str, Any]] = [
        {"epoch": n, "time": seconds, "loss": loss, "val_loss": loss + 0.1, "samples_per_sec": 50.0}
        for n, seconds, loss in ((1, 25.0, 5.0), (2, 20.0, 4.0), (3, 22.0, 3.5))
    ]
    as_csv = "\n".join([",".join(epochs[0]), *(",".join(map(str, epoch.values())) for epoch in epochs)])
    path = tmp_path / name
    path.write_text(as_csv if name == "log.csv" else "\n".join(map(json.dumps, epochs)))
    [row], _ = read_rows(path, devices=2)
    assert row == Row(where=row.where, devices=2, epoch_time_s=22.0, first_loss=5.0, last_loss=3.5, validation_loss=3.6,
                      samples_per_s=50.0)  # fmt: skip


def test_epochs_of_several_runs_in_one_file_stay_apart(tmp_path: Path) -> None:
    lines = [f"{epoch},{n},{10 / n + epoch}" for n in (1, 2) for epoch in (1, 2, 3)]
    rows = rows_of(tmp_path, "\n".join(["epoch,world_size,epoch_time", *lines]))
    assert [(row.devices, row.epoch_time_s) for row in rows] == [(1, 12.0), (2, 7.0)]


def test_summaries_that_tell_how_many_epochs_are_no_logs(tmp_path: Path) -> None:
    """What trainers write at the end: one object, its epoch the number of epochs done."""
    summary = {
        "epoch": 3.0,
        "train_runtime": 90.0,
        "train_samples_per_second": 33.0,
        "train_loss": 2.5,
        "eval_loss": 2.4,
    }
    for n in (1, 2):
        (tmp_path / f"{n}.json").write_text(json.dumps({**summary, "train_runtime": 90.0 / n}))
    audit = audit_paths([f"1={tmp_path / '1.json'}", f"2={tmp_path / '2.json'}"])
    assert [(c.quantity, c.ratio) for c in audit.comparisons] == [("time_s", 2.0), ("samples_per_s", 1.0)]


def test_one_file_a_run(tmp_path: Path) -> None:
    for n in (1, 4):
        (tmp_path / f"{n}.csv").write_text("epoch,time,loss\n" + "".join(f"{e},{120 / n},{4 - e}\n" for e in range(3)))
    audit = audit_paths([f"1={tmp_path / '1.csv'}", f"4={tmp_path / '4.csv'}"])
    assert [(c.name, c.ratio) for c in audit.comparisons] == [("1 → 4 devices", 4.0)]
    (tmp_path / "x.csv").write_text("devices,time\n2,1\n")
    with pytest.raises(UserError, match=r"devices is 2, but 3= was given before the path"):
        audit_paths([f"3={tmp_path / 'x.csv'}"])


def test_tables_are_not_compared_with_each_other() -> None:
    paths = [str(EXAMPLES / name) for name in ("f-super-linear.csv", "g-lost-time.csv")]
    audit = audit_paths(paths)
    assert [comparison.source for comparison in audit.comparisons] == [paths[0], paths[0], paths[1], paths[1]]
    assert (audit.num_rows, len(audit.sources)) == (6, 2)


def test_no_alias_means_two_things() -> None:
    theirs = [alias for aliases in ALIASES.values() for alias in aliases]
    assert len(theirs) == len(set(theirs))
    assert set(ALIASES) <= set(COLUMNS)
    assert not set(theirs) & set(COLUMNS)
    assert all(canonical(name) == (name, 1.0) for name in COLUMNS)
    assert canonical("batch_size") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ("devices,time_s\n", "holds no rows"),
        ("devices,time_s\n1\n", r"line 2: 1 fields, but the header names 2 columns"),
        ("devices,time_s\n1,2\n1,2,3\n", r"line 3: 3 fields"),
        ("devices,time_s\n1,fast\n", r"line 2, column 'time_s': 'fast' is no number"),
        ("devices,time_s\n1,-3\n", r"line 2, column 'time_s': it must be greater than 0; it is -3"),
        ("gpus,time\n0,3\n", r"line 2, column 'gpus' \(devices\): it must be greater than or equal to 1; it is 0"),
        ("devices,time_s\n1.5,3\n", r"line 2, column 'devices': it must be a valid integer"),
        ("devices,time_s\n1,inf\n", r"column 'time_s': 'inf' is no number"),
        ("devices,time_s\n1,1e999\n", r"column 'time_s': it must be"),
        ("devices,time,time_s\n1,2,3\n", r"columns 'time' and 'time_s' both give time_s"),
        ("devices,devices\n1,2\n", r"line 1: the column 'devices' appears twice"),
        ("a,b\n1,2\n", "has no column that is read. Columns: series, run, devices"),
        ("devices,scaling\n1,wek\n", r"column 'scaling': it must be 'strong' or 'weak'; it is 'wek'"),
        ('devices,run\n1,"a\n', r"It is not CSV that can be read"),
        ("devices,per_rank_times_s\n2,1 x\n", r"column 'per_rank_times_s': 'x' is no number"),
    ],
)
def test_the_bad_line_and_column_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        rows_of(tmp_path, text)
    assert str(tmp_path / "numbers.csv") in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"line 1, column 2: .* It is not JSON"),
        ("[" * 100_000, "not JSON that can be read"),
        ("3", "it holds 3. Give a list of runs"),
        ("[1]", "run 1: 1 is no run"),
        ('[{"devices": true}]', "run 1, column 'devices': True is no number"),
        ('[{"devices": 1}, {"devices": {}}]', "run 2, column 'devices': {} is no number"),
        ('[{"devices": 1' + "0" * 400 + "}]", "run 1, column 'devices': it must be"),
        ('[{"devices": 1' + "0" * 9000 + "}]", "not JSON that can be read"),
        ('[{"model": ["a"]}]', "run 1, column 'model': .* is no word"),
        ('{"cells": [], "verdict": {}}', "is a study's results.json. Give the study's folder"),
    ],
)
def test_the_bad_run_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rows_of(tmp_path, text, "numbers.json")


def test_bad_lines_of_jsonl_and_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"log.jsonl, line 2, column 1: .* It is not JSON"):
        rows_of(tmp_path, '{"devices": 1, "time": 2}\nx\n', "log.jsonl")
    (tmp_path / "latin.csv").write_bytes("devices,run\n1,\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match="byte 14 is not UTF-8 text"):
        read_rows(tmp_path / "latin.csv")
    for name, message in (
        ("none.csv", "does not exist"),
        (".", "neither a study nor a run"),
        ("a.txt", "ends in '.txt'"),
    ):
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(UserError, match=f"{re.escape(message)}. Give a study's folder"):
            audit_paths([str(tmp_path / name)])
    with pytest.raises(UserError, match="must be at least 1"):
        audit_paths(["0=a.csv"])


FIELDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "1", "4", "-1", "0", "1e308", "1e-300", "nan", "3.5x", "9" * 40, "1;2", "[1", "\x00", '"', "total"]
    ),
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(str),
)
NAMES = st.one_of(st.sampled_from([*COLUMNS, "epoch", "gpus", "time", "loss", "step_time_ms"]), st.text(max_size=8))


def named_or_audited(path: Path) -> bool:
    """Audit a file: it gives a record, or an error that names the file and where in it the fault lies."""
    try:
        return bool(audit_paths([str(path)]).model_dump_json())
    except UserError as error:
        place = r"(, line \d+|, run \d+|: it holds| holds no rows| has no column that is read)"
        return re.match(re.escape(str(path)) + place, str(error)) is not None


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(NAMES, min_size=1, max_size=6), st.lists(st.lists(FIELDS, min_size=1, max_size=7), max_size=5))
def test_malformed_csv_is_named_or_audited(tmp_path: Path, names: list[str], lines: list[list[str]]) -> None:
    path = tmp_path / "wild.csv"
    path.write_text("\n".join([",".join(names), *map(",".join, lines)]), encoding="utf-8", newline="")
    assert named_or_audited(path)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.dictionaries(NAMES, VALUES, max_size=6), VALUES), max_size=4), st.booleans())
def test_malformed_json_is_named_or_audited(tmp_path: Path, runs: list[Any], by_line: bool) -> None:
    path = tmp_path / ("wild.jsonl" if by_line else "wild.json")
    text = "\n".join(map(json.dumps, runs)) if by_line else json.dumps(runs)
    path.write_text(text, encoding="utf-8", newline="")
    assert named_or_audited(path)


RIGHT = {
    "devices": st.sampled_from([1, 2, 4]),
    "time_s": st.floats(1e-3, 1e6),
    "tokens": st.integers(1, 10**9),
    "tokens_per_s": st.floats(1e-3, 1e9),
    "per_rank_times_s": st.lists(st.floats(0.1, 1e3), min_size=1, max_size=4),
    "steps": st.integers(1, 10**6),
    "communication_s": st.floats(0, 1e4),
    "compute_s": st.floats(0, 1e4),
    "samples_per_rank": st.integers(1, 10**6),
    "step_times_s": st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=9),
    "last_loss": st.floats(-10, 10),
    "scaling": st.sampled_from(["strong", "weak"]),
}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional=RIGHT), min_size=1, max_size=6))
def test_any_sensible_rows_can_be_judged(rows: list[dict[str, Any]]) -> None:
    parts = audit_rows([Row.model_validate(row) for row in rows], "made up")
    audit = assemble(["made up"], len(rows), *parts)
    assert text(audit).startswith(audit.headline[:20])
    assert markdown(audit).startswith("# ")
    for comparison in audit.comparisons:
        blocked = any(finding.severity == "blocks" for finding in comparison.findings)
        assert (comparison.status == "does not stand") == blocked
