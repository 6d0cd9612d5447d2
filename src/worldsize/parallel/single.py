"""One device: nothing is exchanged. What every other strategy is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from worldsize.config.schema import Config
from worldsize.parallel.data_parallel import HoldsReplica
from worldsize.parallel.layout import Layout
from worldsize.parallel.strategy import StepOutput
from worldsize.records import CollectiveCount

if TYPE_CHECKING:
    from torch import nn

    from worldsize.data.batch import Batch
    from worldsize.measure.clock import StepClock
    from worldsize.models.cost import ModelDescription
    from worldsize.parallel.context import RankContext


class SingleDevice(HoldsReplica):
    """Forward, backward and update on one device."""

    name: ClassVar[str] = "single"
    can_skip_exchange: ClassVar[bool] = True

    @staticmethod
    def legal(config: Config, layout: Layout) -> list[str]:
        if layout.world_size == 1:
            return []
        return [f"strategy 'single' runs on one device, not {layout.world_size}; use parallel.strategy=ddp"]

    @staticmethod
    def communication(config: Config, layout: Layout, model: ModelDescription) -> list[CollectiveCount]:
        return []

    def prepare(self, model: nn.Module, config: Config, context: RankContext) -> None:
        from worldsize.train.replica import Replica

        self.replica = Replica(model, config, context.device)

    def step(
        self, micro_batches: Sequence[Batch], learning_rate: float, clock: StepClock, *, exchange: bool = True
    ) -> StepOutput:
        loss_sum = self.replica.forward_backward(micro_batches)
        clock.mark("compute_s")
        grad_norm = self.replica.update(learning_rate)
        clock.mark("optimizer_s")
        return StepOutput(loss_sum, grad_norm)
