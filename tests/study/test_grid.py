"""Options become cells: names, batches, order, and errors that say what to type."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsize.config.schema import Config
from worldsize.errors import UserError
from worldsize.study.grid import cells_of, load_cells, order_of, parse_counts, parse_vary
from worldsize.study.records import StudyPlan


def plan_of(**changes: Any) -> StudyPlan:
    values: dict[str, Any] = {"command": [], "scaling": "strong", "repeats": 3, "world_sizes": [1, 2],
                              "global_batches": [64], "vary": {}, "config": Config().model_dump()}  # fmt: skip
    return StudyPlan(**(values | changes))


def test_counts_are_sorted_and_distinct() -> None:
    assert parse_counts("4, 1,2,1", "--nproc") == [1, 2, 4]


@pytest.mark.parametrize("text", ["", "0", "1,,2", "two", "-1", "1.5", "1e3", "²"])
def test_bad_counts_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--nproc"):
        parse_counts(text, "--nproc")


def test_vary_reads_values_as_yaml() -> None:
    items = ["model.num_layers=2,4,2", "train.compile=true,false", "data.source=a"]
    assert parse_vary(items) == {
        "model.num_layers": [2, 4],
        "train.compile": [True, False],
        "data.source": ["a"],
    }


@pytest.mark.parametrize(
    ("items", "says"),
    [(["model"], "type a dotted key"), (["num_layers=2"], "type a dotted key"),
     (["model.num_layers="], "type a dotted"),
     (["train.global_batch=1,2"], "--global-batch"), (["parallel.dp=1"], "--nproc"),
     (["model.bias=true", "model.bias=false"], "twice")],
)  # fmt: skip
def test_bad_vary_says_what_to_type(items: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_vary(items)


def test_strong_cells() -> None:
    cells = cells_of(plan_of(world_sizes=[1, 2], global_batches=[64, 128], vary={"model.num_layers": [2, 4]}))
    assert [cell.name for cell in cells][:4] == [
        "n1-b64-num_layers2", "n2-b64-num_layers2", "n1-b128-num_layers2", "n2-b128-num_layers2",
    ]  # fmt: skip
    assert cells[3].baseline == "n1-b128-num_layers2"
    assert cells[7].overrides == ["train.global_batch=128", "model.num_layers=4"]


def test_one_device_is_one_cell_however_more_would_share_the_work() -> None:
    vary = {"parallel.strategy": ["ddp", "fsdp"], "model.num_layers": [2, 4]}
    cells = cells_of(plan_of(world_sizes=[1, 2], global_batches=[64], vary=vary))
    assert [(cell.name, cell.baseline, cell.vary) for cell in cells] == [
        ("n1-b64-num_layers2", "n1-b64-num_layers2", {"model.num_layers": 2}),
        ("n2-b64-strategyddp-num_layers2", "n1-b64-num_layers2", {"parallel.strategy": "ddp", "model.num_layers": 2}),
        ("n1-b64-num_layers4", "n1-b64-num_layers4", {"model.num_layers": 4}),
        ("n2-b64-strategyddp-num_layers4", "n1-b64-num_layers4", {"parallel.strategy": "ddp", "model.num_layers": 4}),
        ("n2-b64-strategyfsdp-num_layers2", "n1-b64-num_layers2", {"parallel.strategy": "fsdp", "model.num_layers": 2}),
        ("n2-b64-strategyfsdp-num_layers4", "n1-b64-num_layers4", {"parallel.strategy": "fsdp", "model.num_layers": 4}),
    ]


def test_weak_batches_grow_with_the_world_size() -> None:
    cells = cells_of(plan_of(scaling="weak", world_sizes=[2, 4, 6], global_batches=[8]))
    assert [(cell.name, cell.global_batch, cell.baseline) for cell in cells] == [
        ("n2-b8", 8, "n2-b8"), ("n4-b16", 16, "n2-b8"), ("n6-b24", 24, "n2-b8"),
    ]  # fmt: skip


def test_weak_batch_that_does_not_grow_is_refused() -> None:
    with pytest.raises(UserError, match=r"3 × 3 / 2 is no whole number"):
        cells_of(plan_of(scaling="weak", world_sizes=[2, 3], global_batches=[3]))


VALUES = st.one_of(st.text("aZ/ ._é-", max_size=40), st.floats(allow_nan=False), st.none())
KEYS = st.sampled_from(["data.source", "model.norm", "measure.warmup_steps", "optimizer.warmup_steps"])


@given(st.dictionaries(KEYS, st.lists(VALUES, min_size=1, max_size=3, unique_by=repr)))
@settings(deadline=None)
def test_names_are_unique_and_safe(vary: dict[str, list[Any]]) -> None:
    names = [cell.name for cell in cells_of(plan_of(vary=vary))]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(re.fullmatch(r"n\d+-b\d+[A-Za-z0-9._-]*", name) and len(name) < 200 for name in names)


@given(st.integers(1, 6), st.integers(1, 6))
def test_each_round_runs_every_cell_once(num_cells: int, repeats: int) -> None:
    cells = cells_of(plan_of(world_sizes=list(range(1, num_cells + 1))))
    order = order_of(cells, repeats)
    for index in range(repeats):
        one_round = order[index * num_cells : (index + 1) * num_cells]
        assert {planned.repeat for planned in one_round} == {index + 1}
        assert Counter(planned.cell.name for planned in one_round) == Counter(cell.name for cell in cells)
    assert len({planned.folder for planned in order}) == len(order)


def test_drift_hits_all_cells_alike_over_as_many_rounds_as_cells() -> None:
    cells = cells_of(plan_of(world_sizes=[1, 2, 4]))
    places: Counter[str] = Counter()
    for place, planned in enumerate(order_of(cells, 3)):
        places[planned.cell.name] += place % 3
    assert set(places.values()) == {3}


def test_illegal_cells_are_named_before_anything_runs() -> None:
    cells = cells_of(plan_of(world_sizes=[1, 2, 3], global_batches=[64], vary={"model.num_heads": [4, 5]}))
    with pytest.raises(UserError) as refusal:
        load_cells(cells, None)
    message = str(refusal.value)
    assert message.startswith("4 of the grid's 6 cells cannot run, so nothing was started:")
    assert "n1-b64-num_heads5" in message
    assert "n3-b64-num_heads4" in message
    assert "num_heads=5" in message


def test_legal_cells_are_loaded() -> None:
    loaded = load_cells(cells_of(plan_of(vary={"model.num_layers": [2, 3]})), None, ["train.steps=7"])
    assert loaded["n2-b64-num_layers3"].config.model.num_layers == 3
    assert {each.config.train.steps for each in loaded.values()} == {7}
