"""Pipelines: the blocks are cut into stages on different ranks, and micro batches pass them one after the other.

`pipeline` overlaps micro batches by torch's schedules; `model_parallel` sends the next one off when the one before
has come back, which is what pipelining is compared with. Order of preparation: the model is cut first, so that the
optimizer sees a rank's own parameters alone; then groups, stages and schedule. After a step's schedule the copies of a tied head
sum their gradients, then replicas theirs (dp), then all stages the gradient's norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from worldsize.config.schema import Config
from worldsize.models.cost import FP32_BYTES
from worldsize.parallel.layout import Layout, batches_for
from worldsize.parallel.pipeline_rules import reasons_against
from worldsize.parallel.stages import TIED, Stages, stages_for
from worldsize.parallel.strategy import StepOutput
from worldsize.records import CollectiveCount

if TYPE_CHECKING:
    from torch import Tensor, nn

    from worldsize.data.batch import Batch
    from worldsize.measure.clock import StepClock
    from worldsize.models.cost import ModelDescription
    from worldsize.parallel.context import RankContext
    from worldsize.train.stage_replica import StageReplica


class Pipeline:
    """Ranks hold consecutive parts of the model and see the same samples; replicas of it see different ones."""

    name: ClassVar[str] = "pipeline"
    can_skip_exchange: ClassVar[bool] = False

    @classmethod
    def legal(cls, config: Config, layout: Layout) -> list[str]:
        return reasons_against(cls.name, config, layout)

    @classmethod
    def schedule_of(cls, config: Config) -> str:
        """Return the schedule's name in parallel/schedule.py."""
        return config.parallel.pipeline_schedule

    @staticmethod
    def communication(config: Config, layout: Layout, model: ModelDescription, rank: int = 0) -> list[CollectiveCount]:
        """Return one rank's collectives: ranks differ by their stages' neighbours and parameters."""
        return collectives(config, layout, model, rank)

    def prepare(self, model: nn.Module, config: Config, context: RankContext) -> None:
        from worldsize.models.cost import describe
        from worldsize.train.prepare_pipeline import prepare_pipeline

        self.prepared = prepare_pipeline(model, config, context, describe(config.model), self.schedule_of(config))
        self.replica: StageReplica = self.prepared.replica
        self._width = config.model.d_model

    def step(
        self, micro_batches: Sequence[Batch], learning_rate: float, clock: StepClock, *, exchange: bool = True
    ) -> StepOutput:
        if not exchange:
            raise ValueError("a pipeline cannot leave its exchange out: a stage needs what the one before it computed")
        notes = self.prepared.log.new_step() if clock.measures else None
        self.replica.clock, self.replica.notes = clock, notes
        if notes is not None:
            clock.note(notes)
        loss_sum = self.prepared.engine.run(micro_batches, notes)
        clock.mark("bubble_s")  # parted into compute, bubble and communication when the window closes
        loss_sum = self.replica.on_last_rank(loss_sum)
        self.replica.sum_gradients()
        grad_norm = self.replica.update(learning_rate)
        clock.mark("optimizer_s")
        return StepOutput(loss_sum, grad_norm)

    def evaluate(self, batch: Batch) -> Tensor:
        return self.replica.evaluate_stages(self.prepared.modules, batch, self._width)

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        return self.replica.full_parameters()

    def state(self) -> dict[str, Any]:
        return self.replica.state()


class ModelParallel(Pipeline):
    """The same stages, one micro batch after another: all ranks but one wait at any time."""

    name: ClassVar[str] = "model_parallel"

    @classmethod
    def schedule_of(cls, config: Config) -> str:
        return "model_parallel"


def collectives(config: Config, layout: Layout, model: ModelDescription, rank: int) -> list[CollectiveCount]:
    """Return what one rank of a pipeline issues in one step."""
    stages = stages_for(config, layout)
    pp_rank = layout.coordinates(rank)["pp"]
    tied = config.model.tied_head

    def all_reduced(group: str, group_size: int, numel: int) -> CollectiveCount:
        return CollectiveCount(kind="all_reduce", group=group, group_size=group_size, payload_bytes=numel * FP32_BYTES)

    counts = messages(config, layout, stages, pp_rank)
    if layout.dp > 1:
        names = stages.names_of(pp_rank, model, tied=tied)
        own = sum(math.prod(model.parameter_shapes[name]) for name in names)
        counts.append(all_reduced("dp", layout.dp, own))
    norm = 1 if config.train.grad_clip_norm is not None else 0
    head = math.prod(model.parameter_shapes[TIED]) if tied and stages.ends_apart and _is_end(stages, pp_rank) else 0
    if layout.pp == 2:
        counts.append(all_reduced("pp", 2, norm + head))  # the two ends are the whole pipeline
    else:
        counts += [all_reduced("pp", 2, head), all_reduced("pp", layout.pp, norm)]
    return sorted(
        (count for count in counts if count.payload_bytes),
        key=lambda count: (count.kind, count.group, count.group_size),
    )


def messages(config: Config, layout: Layout, stages: Stages, pp_rank: int) -> list[CollectiveCount]:
    """Return what a rank sends and receives: activations one way, their gradients the other; a padded batch whole."""
    batches = batches_for(config.train, layout)
    each = batches.micro_batch * config.model.context_length * config.model.d_model * FP32_BYTES
    last = stages.num_stages - 1
    crossings = {"send": 0, "recv": 0}
    for stage in stages.stages_of(pp_rank):
        for neighbour in (stage - 1, stage + 1):
            if 0 <= neighbour <= last and stages.rank_of(neighbour) != pp_rank:
                crossings["send"] += 1  # forward to the next stage, backward to the one before; received likewise
                crossings["recv"] += 1
    payload = {kind: num * batches.accumulation * each for kind, num in crossings.items()}
    holder, reporter = stages.rank_of(last), stages.num_ranks - 1
    if holder != reporter:  # in a V the loss is handed on
        payload["send"] += FP32_BYTES * (pp_rank == holder)
        payload["recv"] += FP32_BYTES * (pp_rank == reporter)
    return [
        CollectiveCount(kind=kind, group="pp", group_size=layout.pp, payload_bytes=payload_bytes)
        for kind, payload_bytes in payload.items()
    ]


def _is_end(stages: Stages, pp_rank: int) -> bool:
    return pp_rank in (stages.rank_of(0), stages.rank_of(stages.num_stages - 1))
