"""Pipelines: the blocks are cut into stages on different ranks, and micro batches pass them one after the other.

`pipeline` overlaps micro batches by torch's schedules; `model_parallel` sends the next one off when the one before
has come back, which is what pipelining is compared with. Order of preparation: the model is cut first, so that the
optimizer sees a rank's own parameters alone; then each stage is spread over tp, and groups, stages and schedule are set
up. After a step's schedule the copies of a tied head sum their gradients, then replicas theirs (dp), then tp ranks what
they hold whole, then all stages the gradient's norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from worldsize.config.schema import Config
from worldsize.parallel.data_parallel import HoldsReplica
from worldsize.parallel.layout import Layout
from worldsize.parallel.pipeline_bytes import communication
from worldsize.parallel.pipeline_rules import reasons_against
from worldsize.parallel.strategy import StepOutput
from worldsize.records import CollectiveCount

if TYPE_CHECKING:
    from torch import Tensor, nn

    from worldsize.data.batch import Batch
    from worldsize.measure.clock import StepClock
    from worldsize.measure.pipeline_log import Replayed
    from worldsize.models.cost import ModelDescription
    from worldsize.parallel.context import RankContext
    from worldsize.train.stage_replica import StageReplica


class Pipeline(HoldsReplica):
    """Ranks hold consecutive parts of the model and see the same samples; replicas of it see different ones."""

    name: ClassVar[str] = "pipeline"
    can_skip_exchange: ClassVar[bool] = False
    whole_forward: ClassVar[bool] = False
    replica: StageReplica

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
        return communication(config, layout, model, rank)

    def prepare(self, model: nn.Module, config: Config, context: RankContext) -> None:
        from worldsize.models.cost import describe
        from worldsize.train.prepare_pipeline import prepare_pipeline

        self.prepared = prepare_pipeline(model, config, context, describe(config.model), self.schedule_of(config))
        self.replica = self.prepared.replica

    def step(
        self, micro_batches: Sequence[Batch], learning_rate: float, clock: StepClock, *, exchange: bool = True
    ) -> StepOutput:
        if not exchange:
            raise ValueError("a pipeline cannot leave its exchange out: a stage needs what the one before it computed")
        notes = self.prepared.log.new_step() if clock.measures else None
        self.replica.clock, self.replica.notes = clock, notes
        if notes is not None:
            clock.note(notes)
        if self.prepared.axis is not None:
            self.prepared.axis.clock = notes
        loss_sum = self.prepared.engine.run(micro_batches, notes)
        if self.prepared.axis is not None:
            self.prepared.axis.clock = clock
        clock.mark("bubble_s")  # parted into compute, bubble and communication when the window closes
        loss_sum = self.replica.on_last_rank(loss_sum)
        self.replica.sum_gradients()
        grad_norm = self.replica.update(learning_rate)
        clock.mark("optimizer_s")
        if self.prepared.axis is not None:
            self.prepared.axis.clock = None
        return StepOutput(loss_sum, grad_norm)

    def settled(self, config: Config) -> Config:
        """Return the config with the cut, which may have been measured."""
        return self.prepared.config

    def replayed(self, num_steps: int) -> Replayed | None:
        """Return what the latest steps say of the bubble; None where none was noted."""
        from worldsize.measure.pipeline_log import replayed

        return replayed(self.prepared.log, self.prepared.schedule, self.prepared.num_micro_batches, num_steps)

    def evaluate(self, batch: Batch) -> Tensor:
        shapes = self.prepared.engine.shapes
        activation = (shapes.own_length, shapes.width)
        return self.replica.evaluate_stages(self.prepared.modules, batch, activation, self.prepared.engine.loss)

    def logits(self, batch: Batch) -> Tensor:
        shapes = self.prepared.engine.shapes
        activation = (shapes.own_length, shapes.width)
        return self.replica.logits_of_stages(self.prepared.modules, batch, activation, shapes.logits_of_sample)


class ModelParallel(Pipeline):
    """The same stages, one micro batch after another: all ranks but one wait at any time."""

    name: ClassVar[str] = "model_parallel"

    @classmethod
    def schedule_of(cls, config: Config) -> str:
        return "model_parallel"
