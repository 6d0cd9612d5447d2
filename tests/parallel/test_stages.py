"""Cuts of a model against every possible cut, and what each stage holds against the decoder itself."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.steps import config_of
from worldsize.models.cost import PartCosts, describe, forward_flop_by_part, forward_flop_per_sample
from worldsize.parallel.layout import Layout
from worldsize.parallel.stages import Stages, balanced, stage_costs, stages_for

cost = st.floats(0, 10)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(0, 4), cost, st.floats(0.1, 10), cost)
def test_no_cut_has_a_cheaper_costliest_stage(
    num_stages: int, more_blocks: int, before: float, block: float, after: float
) -> None:
    num_blocks, costs = num_stages + more_blocks, PartCosts(before, block, after)
    found = balanced(costs, num_blocks, num_stages)
    assert sum(found) == num_blocks
    assert len(found) == num_stages
    every_cut = itertools.product(range(1, num_blocks + 1), repeat=num_stages)
    cheapest = min(max(stage_costs(costs, cut)) for cut in every_cut if sum(cut) == num_blocks)
    assert max(stage_costs(costs, found)) == pytest.approx(cheapest)


def test_a_heavy_head_takes_blocks_from_the_last_stage() -> None:
    assert balanced(PartCosts(0, 1, 0), 8, 4) == (2, 2, 2, 2)
    assert balanced(PartCosts(0, 1, 2), 8, 4) == (2, 2, 3, 1)  # of equal cuts the one whose first stages are light
    assert balanced(PartCosts(0, 1, 0), 5, 2) in ((2, 3), (3, 2))


def test_parts_sum_to_the_model() -> None:
    model = config_of(model={"num_layers": 5, "positions": "rotary"}).model
    parts = forward_flop_by_part(model)
    assert parts.before + 5 * parts.block + parts.after == pytest.approx(forward_flop_per_sample(model, causal=True))


def test_placements() -> None:
    loop, v = Stages((1,) * 6, 3, "loop"), Stages((1,) * 6, 3, "v")
    assert [loop.rank_of(stage) for stage in range(6)] == [0, 1, 2, 0, 1, 2]
    assert [v.rank_of(stage) for stage in range(6)] == [0, 1, 2, 2, 1, 0]
    assert loop.stages_of(1) == [1, 4]
    assert v.stages_of(0) == [0, 5]
    assert loop.ends_apart
    assert not v.ends_apart


@pytest.mark.parametrize("tied", [True, False])
def test_each_parameter_is_held_once_and_a_tied_head_twice(tied: bool) -> None:
    config = config_of(model={"num_layers": 5, "tied_head": tied}, parallel={"stage_layers": [2, 1, 2]})
    stages, model = stages_for(config, Layout(pp=3)), describe(config.model)
    held = [stages.parameters_of(stage, model) for stage in range(3)]
    once = list(itertools.chain(*held))
    twice = [name for name in set(once) if once.count(name) > 1]
    assert set(once) == set(model.parameter_shapes)
    assert twice == (["token_embedding.weight"] if tied else [])
    assert held[0][:2] == ["token_embedding.weight", "position_embedding.weight"]
    assert {name.split(".")[1] for name in held[1]} == {"2"}
    assert held[2][-2:] == (["final_norm.weight", "final_norm.bias"] if tied else ["final_norm.bias", "head.weight"])
    assert stages.owner_of("token_embedding.weight", model) == 0


def test_the_config_says_how_to_cut() -> None:
    model = {"num_layers": 6, "d_model": 32, "vocab_size": 8192}  # the head costs more than five blocks
    assert stages_for(config_of(model=model), Layout(pp=2)).num_blocks == (5, 1)
    assert stages_for(config_of(model=model, parallel={"stage_balance": "equal"}), Layout(pp=2)).num_blocks == (3, 3)
    assert stages_for(config_of(model=model, parallel={"stage_layers": [4, 2]}), Layout(pp=2)).num_blocks == (4, 2)
    assert stages_for(config_of(model=model), Layout(pp=2), PartCosts(0, 1, 1)).num_blocks in ((3, 3), (4, 2))
