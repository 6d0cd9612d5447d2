"""Tensor parallelism: every rank computes with its part of each matrix, on the same samples (tensor_plan.py says how).

The order in which it is applied: tensor parallelism first, since fully_shard then shards what each tp rank holds; then
the data axis, dp or fsdp; the optimizer last, since it must see the shards. Within a step the data axis' exchange comes
before the sum over tp of the gradients of what every tp rank holds whole.

Dropout draws from each rank's own random numbers: no activation that it meets is the same on two ranks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from worldsize.config.schema import Config
from worldsize.models.cost import ModelDescription, describe
from worldsize.parallel import tensor_bytes
from worldsize.parallel.data_parallel import HoldsReplica
from worldsize.parallel.fsdp import give_back, shard
from worldsize.parallel.layout import Layout
from worldsize.parallel.strategy import StepOutput
from worldsize.records import CollectiveCount

if TYPE_CHECKING:
    from torch import Tensor, nn

    from worldsize.data.batch import Batch
    from worldsize.measure.clock import StepClock
    from worldsize.parallel.context import RankContext
    from worldsize.parallel.tensor_replica import TensorReplica


class TensorParallel(HoldsReplica):
    """Ranks along tp share every matrix and every sample; dp or fsdp ranks see different samples."""

    name: ClassVar[str] = "tensor"
    can_skip_exchange: ClassVar[bool] = False
    whole_forward: ClassVar[bool] = False
    replica: TensorReplica

    @staticmethod
    def legal(config: Config, layout: Layout) -> list[str]:
        reasons = []
        if layout.world_size == 1:
            return ["strategy 'tensor' needs at least 2 devices; use parallel.strategy=single or --nproc 2"]
        if layout.pp > 1:
            reasons.append(
                f"strategy 'tensor' spreads by tp, dp and fsdp, but parallel.pp={layout.pp}; use "
                "parallel.strategy=pipeline, which takes parallel.tp too"
            )
        if layout.tp == 1:
            other = "fsdp" if layout.fsdp > 1 else "ddp"
            reasons.append(
                f"strategy 'tensor' spreads over parallel.tp=1 rank; set parallel.tp=2 or more, or use "
                f"parallel.strategy={other}"
            )
        if layout.dp > 1 and layout.fsdp > 1:
            reasons.append(
                f"strategy 'tensor' takes one data axis beside tp, but parallel.dp={layout.dp} and "
                f"parallel.fsdp={layout.fsdp}; use parallel.dp=1 or parallel.fsdp=1"
            )
        if config.train.compile:
            reasons.append("strategy 'tensor' runs uncompiled; use train.compile=false, or parallel.strategy=ddp")
        return reasons + tensor_bytes.undivided(config, layout.tp, layout.fsdp)

    @staticmethod
    def communication(config: Config, layout: Layout, model: ModelDescription, rank: int = 0) -> list[CollectiveCount]:
        """Return one rank's collectives: ranks along tp differ where they share an uneven vocabulary."""
        return tensor_bytes.communication(config, layout, model, rank)

    def prepare(self, model: nn.Module, config: Config, context: RankContext) -> None:
        from torch.distributed.fsdp import FSDPModule

        from worldsize.measure.fsdp_clock import fsdp_clock_for
        from worldsize.parallel.gradient_buckets import GradientBuckets
        from worldsize.parallel.mesh import mesh_of
        from worldsize.parallel.tensor_plan import apply
        from worldsize.parallel.tensor_replica import TensorReplica

        description = describe(config.model)
        mesh = mesh_of(context)
        self.axis = apply(model, description, mesh["tp"])
        self._clock: StepClock | None = None
        self._root: FSDPModule | None = None
        self._buckets: GradientBuckets | None = None
        self._keeps_weights = config.parallel.zero_stage == 2
        self._fsdp_marks = fsdp_clock_for(context.device)
        if context.layout.fsdp > 1:
            self._root = shard(model, description.block_prefixes, config, mesh["fsdp"])
            # torch would tell every rank that fp16's overflow goes over fsdp and tp one after the other.
            logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
            for module in model.modules():
                if isinstance(module, FSDPModule):
                    self._fsdp_marks.attach(module)
        elif context.layout.dp > 1:
            bucket_bytes = config.parallel.bucket_mib * 2**20
            self._buckets = GradientBuckets(
                model.parameters(), mesh.get_group("dp"), bucket_bytes, self._exchange_started
            )
        self.replica = TensorReplica(model, config, context.device, axis=self.axis, description=description, mesh=mesh)

    def _exchange_started(self) -> None:
        assert self._clock is not None
        self._clock.communication_started()

    def step(
        self, micro_batches: Sequence[Batch], learning_rate: float, clock: StepClock, *, exchange: bool = True
    ) -> StepOutput:
        if not exchange:
            raise ValueError("strategy 'tensor' cannot leave its exchange out: forward needs the other ranks' sums")
        last = len(micro_batches) - 1
        self._mark_on(clock)
        self._end_of_step(False)
        loss_sum = self.replica.forward_backward(micro_batches[:last])
        self._end_of_step(True)
        loss_sum = loss_sum + self.replica.forward_backward(micro_batches[last:])
        if self._buckets is not None:
            self._buckets.finish()
        clock.mark_exchange()
        self.replica.sum_replicated()
        grad_norm = self.replica.update(learning_rate)
        clock.mark("optimizer_s")
        self._mark_on(None)
        return StepOutput(loss_sum, grad_norm)

    def _mark_on(self, clock: StepClock | None) -> None:
        self._clock = self.axis.clock = self._fsdp_marks.clock = clock

    def _end_of_step(self, is_last: bool) -> None:
        """Exchange gradients over the data axis in the last micro batch's backward only."""
        if self._buckets is not None:
            self._buckets.armed = is_last
        if self._root is not None:
            self._root.set_requires_gradient_sync(is_last)
            if self._keeps_weights:
                self._root.set_reshard_after_backward(is_last)

    def evaluate(self, batch: Batch) -> Tensor:
        loss_sum = super().evaluate(batch)
        give_back(self.replica.model)
        return loss_sum

    def logits(self, batch: Batch) -> Tensor:
        logits = super().logits(batch)
        give_back(self.replica.model)
        return logits
