from __future__ import annotations

from tests.report.studies import STUDIES, failed, make_cell, make_study, refused
from worldsize.report import labels


def test_cells_that_read_alike_carry_their_names() -> None:
    study = make_study(make_cell(1), make_cell(1, name="other"), make_cell(2))
    found = labels.cell_labels(study)
    assert found == {
        "n1-b64": "1 device, global batch 64 [n1-b64]",
        "other": "1 device, global batch 64 [other]",
        "n2-b64": "2 devices, global batch 64",
    }


def test_series_join_cells_of_one_baseline_and_begin_with_it() -> None:
    found = labels.series(STUDIES["many cells"])
    assert [line.label for line in found][:2] == ["global batch 8", "global batch 16"]
    assert all([cell.world_size for cell in line.cells] == [1, 2, 4, 8, 16] for line in found)


def test_a_varied_strategy_is_a_series_from_the_common_baseline() -> None:
    base, plain, ddp = make_cell(1), make_cell(2, vary={"parallel.strategy": "ddp"}), make_cell(4, name="x")
    found = labels.series(make_study(base, plain, ddp))
    assert [[cell.name for cell in line.cells] for line in found] == [["n1-b64", "x"], ["n1-b64", "n2-b64"]]
    assert found[1].label == "strategy=ddp"


def test_a_baseline_of_other_lines_is_none_of_its_own() -> None:
    ddp, fsdp = (make_cell(2, name=name, vary={"parallel.strategy": name}) for name in ("ddp", "fsdp"))
    found = labels.series(make_study(make_cell(1), ddp, fsdp))
    assert [[cell.name for cell in line.cells] for line in found] == [["n1-b64", "ddp"], ["n1-b64", "fsdp"]]
    assert [len(line.cells) for line in labels.series(make_study(make_cell(1)))] == [1]


def test_what_all_cells_share_is_said_once() -> None:
    ddp, fsdp = (make_cell(2, name=name, vary={"parallel.strategy": name}) for name in ("ddp", "fsdp"))
    assert labels.cell_labels(make_study(ddp, fsdp)) == {"ddp": "strategy=ddp", "fsdp": "strategy=fsdp"}
    assert labels.in_common(make_study(ddp, fsdp)) == "2 devices, global batch 64"
    one = make_cell(1, name="one", vary={"parallel.strategy": "ddp"})
    assert labels.cell_labels(make_study(one, ddp)) == {
        "one": "1 device, strategy=ddp",
        "ddp": "2 devices, strategy=ddp",
    }
    assert labels.in_common(make_study(one, ddp)) == "global batch 64"
    assert labels.in_common(make_study(make_cell(1), make_cell(2))) == ""


def test_weak_series_are_named_by_the_per_device_batch() -> None:
    [line] = labels.series(STUDIES["weak"])
    assert line.label == "per-device batch 64"


def test_reasons() -> None:
    study = make_study(make_cell(1), refused(2), failed(8))
    assert "unequal-work" in labels.not_compared(study.cells[1])
    assert labels.is_refused(study.cells[1])
    assert not labels.is_refused(study.cells[2])
    assert "rank 5 died" in labels.not_compared(study.cells[2])


def test_plain_is_one_printable_line_of_limited_length() -> None:
    assert labels.plain("a\n\x00 b\t c") == "a b c"
    assert labels.plain("abcdef", 4) == "abc…"
