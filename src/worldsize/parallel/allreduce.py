"""Data parallelism as textbooks write it: after backward one all-reduce a parameter, nothing overlapped.

The baseline that shows what overlapping (ddp) is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from worldsize.config.schema import Config
from worldsize.models.cost import kept_bytes
from worldsize.parallel.data_parallel import HoldsReplica, dp_alone
from worldsize.parallel.layout import Layout
from worldsize.parallel.strategy import StepOutput
from worldsize.records import CollectiveCount

if TYPE_CHECKING:
    from torch import Tensor, nn

    from worldsize.data.batch import Batch
    from worldsize.measure.clock import StepClock
    from worldsize.models.cost import ModelDescription
    from worldsize.parallel.context import RankContext


class AllReduce(HoldsReplica):
    """Every rank holds the whole model and sees its share of the samples."""

    name: ClassVar[str] = "allreduce"
    can_skip_exchange: ClassVar[bool] = True

    @staticmethod
    def legal(config: Config, layout: Layout) -> list[str]:
        return dp_alone("allreduce", layout)

    @staticmethod
    def communication(config: Config, layout: Layout, model: ModelDescription) -> list[CollectiveCount]:
        payload_bytes = model.parameter_bytes(kept_bytes(config.train.precision))
        return [CollectiveCount(kind="all_reduce", group="dp", group_size=layout.dp, payload_bytes=payload_bytes)]

    def prepare(self, model: nn.Module, config: Config, context: RankContext) -> None:
        from worldsize.train.replica import Replica

        self.replica = Replica(model, config, context.device)
        self._num_replicas = context.layout.dp

    def step(
        self, micro_batches: Sequence[Batch], learning_rate: float, clock: StepClock, *, exchange: bool = True
    ) -> StepOutput:
        loss_sum = self.replica.forward_backward(micro_batches)
        local_grad_norm = self._local_grad_norm() if clock.measures and exchange else None
        clock.mark("compute_s")
        if exchange:
            self._exchange()
            clock.mark("exposed_communication_s")
        grad_norm = self.replica.update(learning_rate)
        clock.mark("optimizer_s")
        return StepOutput(loss_sum, grad_norm, local_grad_norm)

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.replica.model.parameters() if p.grad is not None]

    def _exchange(self) -> None:
        """Sum every gradient over the ranks. The loss is already divided by the global token count."""
        import torch.distributed as dist

        for gradient in self._gradients():
            dist.all_reduce(gradient)

    def _local_grad_norm(self) -> Tensor | None:
        """Return the norm of this rank's own mean gradient: of its sum over its own share of the global count."""
        import torch

        if self.replica.precision.scaler.is_enabled():
            return None  # fp16's loss scale is still in them
        norm: Tensor = torch.nn.utils.get_total_norm(self._gradients()) * self._num_replicas
        return norm
