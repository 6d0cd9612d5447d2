"""How a model is cut into pipeline stages, and which rank holds which. Torch-free.

A stage is a run of consecutive blocks. The first also holds what stands before the blocks (embeddings), the last what
stands after them (last norm, head). A head that is tied to the embedding is held by both, as two equal copies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worldsize.config.schema import Config, ParallelConfig
from worldsize.models.cost import ModelDescription, PartCosts, forward_flop_by_part
from worldsize.parallel.layout import Layout

Placement = Literal["loop", "v"]
TIED = "token_embedding.weight"


@dataclass(frozen=True)
class Stages:
    """The cut of a model, the same on every rank."""

    num_blocks: tuple[int, ...]
    """Blocks in each stage."""
    num_ranks: int
    """Pipeline ranks; stages are a multiple of them."""
    placement: Placement
    """Which rank holds a stage. loop: stage s is on rank s mod n. v: ranks are passed once forth, once back."""

    @property
    def num_stages(self) -> int:
        return len(self.num_blocks)

    def blocks_of(self, stage: int) -> range:
        """Return the indices of a stage's blocks."""
        first = sum(self.num_blocks[:stage])
        return range(first, first + self.num_blocks[stage])

    def rank_of(self, stage: int) -> int:
        """Return the pipeline rank that holds a stage."""
        turn, place = divmod(stage, self.num_ranks)
        return self.num_ranks - 1 - place if self.placement == "v" and turn % 2 else place

    def stages_of(self, pp_rank: int) -> list[int]:
        """Return the stages of a pipeline rank, in order."""
        return [stage for stage in range(self.num_stages) if self.rank_of(stage) == pp_rank]

    def holders_of(self, name: str, model: ModelDescription) -> list[int]:
        """Return the stages that hold a parameter: one, or the first and the last."""
        index = block_index(name, model)
        if index is not None:
            return [stage for stage in range(self.num_stages) if index in self.blocks_of(stage)]
        last = self.num_stages - 1
        if model.tied_head and name == TIED:
            return sorted({0, last})
        return [0] if name in before_blocks(model) else [last]

    def parameters_of(self, stage: int, model: ModelDescription) -> list[str]:
        """Return the names of a stage's parameters, in the model's order."""
        return [name for name in model.parameter_shapes if stage in self.holders_of(name, model)]

    def names_of(self, pp_rank: int, model: ModelDescription) -> list[str]:
        """Return the names of a pipeline rank's parameters, in the model's order."""
        own = set(self.stages_of(pp_rank))
        return [name for name in model.parameter_shapes if own & set(self.holders_of(name, model))]

    def owner_of(self, name: str, model: ModelDescription) -> int:
        """Return the pipeline rank whose copy of a parameter counts: of a tied head the embedding's."""
        return self.rank_of(self.holders_of(name, model)[0])

    @property
    def ends_apart(self) -> bool:
        """Whether first and last stage are on different ranks, which then exchange a tied head's gradient."""
        return self.rank_of(0) != self.rank_of(self.num_stages - 1)


def before_blocks(model: ModelDescription) -> list[str]:
    """Return the parameters that stand before the first block."""
    first_of_blocks = model.block_prefixes[0] + "."
    return list(itertools.takewhile(lambda name: not name.startswith(first_of_blocks), model.parameter_shapes))


def block_index(name: str, model: ModelDescription) -> int | None:
    """Return the block that a parameter belongs to, or None outside the blocks."""
    prefixes = enumerate(model.block_prefixes)
    return next((index for index, prefix in prefixes if name.startswith(prefix + ".")), None)


def stages_per_rank(parallel: ParallelConfig) -> int:
    """Return how many stages a rank holds: as configured, or what the schedule takes by itself."""
    if parallel.stages_per_rank is not None:
        return parallel.stages_per_rank
    several = parallel.strategy == "pipeline" and parallel.pipeline_schedule in ("interleaved", "zero_bubble_v")
    return 2 if several else 1


def placement_of(parallel: ParallelConfig) -> Placement:
    return "v" if parallel.strategy == "pipeline" and parallel.pipeline_schedule == "zero_bubble_v" else "loop"


def stages_for(config: Config, layout: Layout, measured: PartCosts | None = None) -> Stages:
    """Return the config's cut of a resolved model that has a block for each stage; `measured` costs go first."""
    parallel = config.parallel
    if parallel.stage_layers is not None:
        return Stages(tuple(parallel.stage_layers), layout.pp, placement_of(parallel))
    costs = PartCosts(0.0, 1.0, 0.0)
    if parallel.stage_balance != "equal":
        costs = measured or forward_flop_by_part(config.model)
    num_blocks = balanced(costs, config.model.num_layers, layout.pp * stages_per_rank(parallel))
    return Stages(num_blocks, layout.pp, placement_of(parallel))


def balanced(costs: PartCosts, num_blocks: int, num_stages: int) -> tuple[int, ...]:
    """Return how many blocks go to each stage, at least one each, so that the costliest stage costs the least.

    Among cuts that are equal in that, the one whose squared costs sum to the least. Dynamic programming over
    (stage, blocks given out).
    """

    def cost_of(stage: int, blocks: int) -> float:
        ends = (costs.before if stage == 0 else 0.0) + (costs.after if stage == num_stages - 1 else 0.0)
        return blocks * costs.block + ends

    best: dict[int, tuple[float, float, tuple[int, ...]]] = {0: (0.0, 0.0, ())}
    for stage in range(num_stages):
        left_for_others = num_stages - 1 - stage
        extended: dict[int, tuple[float, float, tuple[int, ...]]] = {}
        for given, (highest, squares, cut) in best.items():
            for blocks in range(1, num_blocks - given - left_for_others + 1):
                cost = cost_of(stage, blocks)
                candidate = (max(highest, cost), squares + cost**2, (*cut, blocks))
                if candidate < extended.get(given + blocks, (math.inf, math.inf, ())):
                    extended[given + blocks] = candidate
        best = extended
    return best[num_blocks][2]


def stage_costs(costs: PartCosts, num_blocks: Sequence[int]) -> list[float]:
    """Return what each stage of a cut costs, in the unit of `costs`."""
    last = len(num_blocks) - 1
    return [
        blocks * costs.block + (costs.before if stage == 0 else 0.0) + (costs.after if stage == last else 0.0)
        for stage, blocks in enumerate(num_blocks)
    ]
