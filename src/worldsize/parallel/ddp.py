"""Data parallelism by DistributedDataParallel: gradient buckets are all-reduced while backward still runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from worldsize.config.schema import Config
from worldsize.models.cost import kept_bytes
from worldsize.parallel.compression import KEEPS_WHAT_IT_LEFT_OUT, collective, exchange_of
from worldsize.parallel.data_parallel import HoldsReplica, dp_alone
from worldsize.parallel.layout import Layout
from worldsize.parallel.strategy import StepOutput
from worldsize.records import CollectiveCount

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.distributed import GradBucket  # type: ignore[attr-defined]

    from worldsize.data.batch import Batch
    from worldsize.measure.clock import StepClock
    from worldsize.models.cost import ModelDescription
    from worldsize.parallel.context import RankContext


class DistributedDataParallel(HoldsReplica):
    """Every rank holds the whole model and sees its share of the samples."""

    name: ClassVar[str] = "ddp"
    can_skip_exchange: ClassVar[bool] = True

    @staticmethod
    def legal(config: Config, layout: Layout) -> list[str]:
        reasons = dp_alone("ddp", layout)
        compression = config.parallel.gradient_compression
        if compression in KEEPS_WHAT_IT_LEFT_OUT and config.train.precision == "fp16":
            reasons.append(
                f"{compression} keeps what it left out for the next step, where fp16's overflowing gradients would "
                "stay for ever; use train.precision=bf16, or parallel.gradient_compression=fp16"
            )
        return reasons

    @staticmethod
    def communication(config: Config, layout: Layout, model: ModelDescription) -> list[CollectiveCount]:
        return [collective(config.parallel, model, layout.dp, kept_bytes(config.train.precision))]

    def prepare(self, model: nn.Module, config: Config, context: RankContext) -> None:
        from torch.nn.parallel import DistributedDataParallel as TorchDDP

        from worldsize.train.replica import Replica

        self.replica = Replica(model, config, context.device)
        self._num_replicas = context.layout.dp
        self._clock: StepClock | None = None
        self._bucket_norms: list[Tensor] = []
        self._exchange = exchange_of(config.parallel, context.layout.dp, context.device)
        # init_sync=False: every rank already made the same weights, and a broadcast would hide it if they had not.
        self.ddp = TorchDDP(
            self.replica.objective,
            device_ids=[context.device] if context.device.type == "cuda" else None,
            bucket_cap_mb=config.parallel.bucket_mib,
            gradient_as_bucket_view=True,
            init_sync=False,
            broadcast_buffers=False,  # a transformer's buffers are constants, such as rotary frequencies
        )
        # A lambda, since DDP reads a hook's annotations and does not take them as strings.
        self.ddp.register_comm_hook(None, lambda state, bucket: self._exchange_bucket(bucket))
        self.replica.objective = self.ddp

    def _exchange_bucket(self, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        """Sum a bucket over the ranks. The loss is already divided by the global token count, so no division here."""
        import torch

        assert self._clock is not None
        if self._clock.measures:
            self._bucket_norms.append(torch.linalg.vector_norm(bucket.buffer()))
        self._clock.communication_started()
        return self._exchange(bucket)

    def step(
        self, micro_batches: Sequence[Batch], learning_rate: float, clock: StepClock, *, exchange: bool = True
    ) -> StepOutput:
        self._clock = clock
        last = len(micro_batches) - 1
        with self.ddp.no_sync():
            without_exchange = micro_batches if not exchange else micro_batches[:last]
            loss_sum = self.replica.forward_backward(without_exchange)
        if exchange:
            loss_sum = loss_sum + self.replica.forward_backward(micro_batches[last:])
        clock.mark_exchange()
        local_grad_norm = self._local_grad_norm()
        grad_norm = self.replica.update(learning_rate)
        clock.mark("optimizer_s")
        return StepOutput(loss_sum, grad_norm, local_grad_norm)

    def _local_grad_norm(self) -> Tensor | None:
        """Return the norm of this rank's own mean gradient, from its buckets before they were summed."""
        import torch

        norms, self._bucket_norms = self._bucket_norms, []
        if not norms or self.replica.precision.scaler.is_enabled():
            return None  # fp16's loss scale is still in them
        # Buckets hold the rank's sum over the global count of tokens; its mean is over its own share of them.
        local_norm: Tensor = torch.linalg.vector_norm(torch.stack(norms)) * self._num_replicas
        return local_norm
