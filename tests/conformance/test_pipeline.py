"""What a pipeline's ranks carry out is the schedule on paper, in dependency order, on real ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.conformance.steps import UnevenSamples, config_of, train
from tests.ranks import Ranks
from worldsize.config.schema import Config
from worldsize.measure.clock import clock_for
from worldsize.measure.pipeline_log import RankStep, Replayed
from worldsize.models.build import build
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import layout_for
from worldsize.parallel.registry import strategies
from worldsize.parallel.schedule import Action, Orders, gpipe, needs, one_at_a_time, one_forward_one_backward
from worldsize.parallel.stages import stages_for
from worldsize.train.feed import micro_batches
from worldsize.train.pipeline_engine import NotedStage

Executed = tuple[dict[int, RankStep], Replayed | None]


@pytest.fixture(scope="module")
def three_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(3, tmp_path_factory.mktemp("ranks") / "three")
    yield ranks
    ranks.close()


def execute(rank: int, world_size: int, config: Config) -> Executed:
    """Carry out two steps; return when each rank did what in the second, and what the replay says of both."""
    layout = layout_for(config.parallel, world_size)
    context = RankContext(rank, world_size, rank, torch.device("cpu"), layout)
    strategy = strategies()[config.parallel.strategy]()
    strategy.prepare(build(config.model, 0, "cpu"), config, context)
    assert config.train.micro_batch is not None
    ids = np.arange(config.train.global_batch)
    batches = micro_batches(UnevenSamples(), ids, config.train.micro_batch, 99, step=0)  # type: ignore[arg-type]
    clock = clock_for(context.device)
    for _ in range(2):
        clock.start()
        strategy.step(batches, 0.0, clock)
        clock.stop()
    clock.window()
    return strategy.prepared.log.steps[-1], strategy.replayed(2)  # type: ignore[attr-defined]


def config_for(schedule: str, num_micro_batches: int, num_stages: int) -> Config:
    strategy = "model_parallel" if schedule == "model_parallel" else "pipeline"
    named = {} if schedule == "model_parallel" else {"pipeline_schedule": schedule}
    train_section = {"global_batch": num_micro_batches, "micro_batch": 1}
    return config_of(parallel={"strategy": strategy, **named}, model={"num_layers": num_stages}, train=train_section)


def orders_of(steps: dict[int, RankStep]) -> Orders:
    return {rank: [done.action for done in step.actions] for rank, step in steps.items()}


def assert_in_dependency_order(steps: dict[int, RankStep], num_stages: int) -> None:
    done = {each.action: each for step in steps.values() for each in step.actions}
    for action, each in done.items():
        assert each.start_s < each.end_s
        for needed in needs(action, num_stages):
            if needed in done:
                assert done[needed].end_s <= each.start_s, f"{action} began before {needed} had ended"


@pytest.mark.parametrize(
    ("schedule", "on_paper"),
    [("gpipe", gpipe), ("1f1b", one_forward_one_backward), ("model_parallel", one_at_a_time)],
)
@pytest.mark.parametrize(("m", "n"), [(6, 2), (3, 3)])
def test_the_executed_schedule_is_that_on_paper(
    m: int, n: int, schedule: str, on_paper: object, two_ranks: Ranks, three_ranks: Ranks
) -> None:
    ranks = two_ranks if n == 2 else three_ranks
    steps, replayed = ranks.run(execute, config_for(schedule, m, n))[0]
    assert orders_of(steps) == on_paper(m, n)  # type: ignore[operator]
    assert_in_dependency_order(steps, n)
    assert replayed.num_micro_batches == m
    assert 0 < replayed.simulated_share < 1


BOUNDS = {
    "interleaved": lambda n, v, rank: 2 * (n - 1 - rank) + (v - 1) * n + 1,
    "zero_bubble": lambda n, v, rank: (n - 1 - rank) + (v - 1) * n + 1,
    "zero_bubble_v": lambda n, v, rank: v * n,
}
"""Micro batches of a rank's stages that have gone forward and not yet back (Narayanan et al. 2021; Qi et al. 2023)."""


@pytest.mark.parametrize("schedule", BOUNDS)
def test_schedules_of_several_stages_a_rank(schedule: str, two_ranks: Ranks) -> None:
    m, n, v = 6, 2, 1 if schedule == "zero_bubble" else 2
    steps, _ = two_ranks.run(execute, config_for(schedule, m, n * v))[0]
    assert_in_dependency_order(steps, n * v)
    for rank, order in orders_of(steps).items():
        mine = stages_for(config_for(schedule, m, n * v), layout_for(config_for(schedule, m, n * v).parallel, n))
        assert {action.stage for action in order} == set(mine.stages_of(rank))
        assert len(order) == len(set(order))
        assert_each_micro_batch_goes_forth_and_back(order, m)
        in_flight = 0
        for action in order:
            in_flight += {"F": 1, "B": -1, "I": -1, "W": 0}[action.kind]
            assert in_flight <= BOUNDS[schedule](n, v, rank)


def assert_each_micro_batch_goes_forth_and_back(order: list[Action], m: int) -> None:
    """Each stage goes forward once for each micro batch, and back once: whole, or in its two halves."""
    for stage in {action.stage for action in order}:
        kinds = {kind: {a.micro_batch for a in order if a[:2] == (kind, stage)} for kind in "FBIW"}
        assert kinds["F"] == set(range(m))
        assert kinds["B"] | kinds["I"] == set(range(m))
        assert not kinds["B"] & kinds["I"]
        assert kinds["I"] == kinds["W"]


def test_measured_balance_trains_as_analytic_does(two_ranks: Ranks) -> None:
    trained = []
    for balance in ("analytic", "measured"):
        config = config_of(
            parallel={"strategy": "pipeline", "stage_balance": balance},
            model={"num_layers": 5},
            train={"micro_batch": 2, "steps": 2},
        )
        trained.append(two_ranks.run(train, config))
    analytic, measured = ([sum(losses) for losses in zip(*(r["losses"] for r in one), strict=True)] for one in trained)
    assert measured == pytest.approx(analytic, rel=1e-6)
    assert trained[1][0]["checksum"] == trained[1][1]["checksum"]


def test_a_stages_error_is_the_one_that_was_raised() -> None:
    """The engine wraps it in one of its own, whose first line says nothing of the cause."""
    stage = NotedStage.__new__(NotedStage)
    with pytest.raises(FloatingPointError, match="a broken block"), stage._noted("F", 0):
        raise RuntimeError("[Stage 1] failed to run forward") from FloatingPointError("a broken block")
