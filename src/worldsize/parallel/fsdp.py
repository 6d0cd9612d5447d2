"""Sharded data parallelism by torch's fully_shard (FSDP2): each rank keeps a part of every weight, gradient and moment.

The order in which it is applied: each block is a unit of its own, then the root takes what is left (embeddings, last
norm, head), so that one block's weights at a time are gathered. The optimizer comes last, since it must see the shards.
ZeRO stage 3 gives a block's weights back after its forward and gathers them again for its backward; stage 2 keeps them
from the step's first forward to its last backward. With dp > 1 (hybrid sharding) each dp replica is sharded over its
own fsdp ranks, and what they hold of the gradient is summed over dp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from worldsize.config.schema import Config
from worldsize.models.cost import BF16_BYTES, FP32_BYTES, describe, kept_bytes
from worldsize.parallel.data_parallel import HoldsReplica
from worldsize.parallel.layout import Layout, batches_for
from worldsize.parallel.strategy import StepOutput
from worldsize.records import CollectiveCount

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule

    from worldsize.data.batch import Batch
    from worldsize.measure.clock import StepClock
    from worldsize.models.cost import ModelDescription
    from worldsize.parallel.context import RankContext


class FullyShardedDataParallel(HoldsReplica):
    """Ranks see different samples and share one replica's weights."""

    name: ClassVar[str] = "fsdp"
    can_skip_exchange: ClassVar[bool] = False

    @staticmethod
    def legal(config: Config, layout: Layout) -> list[str]:
        reasons = [
            f"strategy 'fsdp' spreads by fsdp and dp, but parallel.{axis}={degree}; use parallel.{axis}=1"
            for axis, degree in (("tp", layout.tp), ("pp", layout.pp))
            if degree > 1
        ]
        if layout.world_size == 1:
            reasons.append("strategy 'fsdp' needs at least 2 devices; use parallel.strategy=single or --nproc 2")
        elif layout.fsdp == 1:
            reasons.append(
                f"strategy 'fsdp' shards over parallel.fsdp=1 rank; leave parallel.dp and parallel.fsdp unset to shard "
                f"over all {layout.world_size}, or use parallel.strategy=ddp for replicas alone"
            )
        if config.parallel.zero_stage in (0, 1):
            reasons.append(
                f"strategy 'fsdp' shards gradients at least, and parallel.zero_stage={config.parallel.zero_stage} does "
                "not; use parallel.zero_stage=2, or parallel.strategy=deepspeed"
            )
        if config.train.compile:
            reasons.append("strategy 'fsdp' runs uncompiled; use train.compile=false, or parallel.strategy=ddp")
        return reasons

    @staticmethod
    def communication(config: Config, layout: Layout, model: ModelDescription) -> list[CollectiveCount]:
        units = [padded_numel(shapes, layout.fsdp) for shapes in units_of(model)]
        root, all_units = units[-1], sum(units)
        gathered = all_units
        if config.parallel.zero_stage != 2:
            # The root is used from the beginning of forward to the end of backward, and never given back between.
            gathered = (2 * all_units - root) * batches_for(config.train, layout).accumulation
        kept = kept_bytes(config.train.precision)
        weight_bytes = BF16_BYTES if config.train.precision in ("bf16", "fp16") else kept
        counts = [
            CollectiveCount(kind="all_gather", group="fsdp", group_size=layout.fsdp,
                            payload_bytes=gathered // layout.fsdp * weight_bytes),
            CollectiveCount(kind="reduce_scatter", group="fsdp", group_size=layout.fsdp,
                            payload_bytes=all_units * kept),
        ]  # fmt: skip
        if layout.dp > 1:
            counts.append(CollectiveCount(kind="all_reduce", group="dp", group_size=layout.dp,
                                          payload_bytes=all_units // layout.fsdp * kept))  # fmt: skip
        told_bytes = 0
        if config.train.grad_clip_norm is not None:  # the norm of each tensor, from those of its shards
            told_bytes += len(model.parameter_shapes) * kept
        if config.train.precision == "fp16":  # whether any shard of the gradient overflowed
            told_bytes += FP32_BYTES
        if told_bytes:
            counts.append(CollectiveCount(kind="all_reduce", group="fsdp", group_size=layout.fsdp,
                                          payload_bytes=told_bytes))  # fmt: skip
        return sorted(counts, key=lambda count: (count.kind, count.group))

    def prepare(self, model: nn.Module, config: Config, context: RankContext) -> None:
        from torch.distributed.fsdp import FSDPModule

        from worldsize.measure.fsdp_clock import fsdp_clock_for
        from worldsize.parallel.mesh import mesh_of
        from worldsize.train.replica import Replica

        prefixes = describe(config.model).block_prefixes
        self._keeps_weights = config.parallel.zero_stage == 2
        self.root = shard(model, prefixes, config, mesh_of(context))
        self._marks = fsdp_clock_for(context.device)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                self._marks.attach(module)
        self.replica = Replica(model, config, context.device)

    def step(
        self, micro_batches: Sequence[Batch], learning_rate: float, clock: StepClock, *, exchange: bool = True
    ) -> StepOutput:
        if not exchange:
            raise ValueError("strategy 'fsdp' cannot leave its exchange out: forward needs the other ranks' weights")
        last = len(micro_batches) - 1
        self._marks.clock = clock
        self._end_of_step(False)
        loss_sum = self.replica.forward_backward(micro_batches[:last])
        self._end_of_step(True)
        loss_sum = loss_sum + self.replica.forward_backward(micro_batches[last:])
        self._marks.clock = None
        clock.mark_exchange()
        grad_norm = self.replica.update(learning_rate)
        clock.mark("optimizer_s")
        return StepOutput(loss_sum, grad_norm)

    def _end_of_step(self, is_last: bool) -> None:
        """Exchange gradients, and under stage 2 give the weights back, in the last micro batch's backward only."""
        self.root.set_requires_gradient_sync(is_last)
        if self._keeps_weights:
            self.root.set_reshard_after_backward(is_last)

    def evaluate(self, batch: Batch) -> Tensor:
        loss_sum = super().evaluate(batch)
        give_back(self.replica.model)
        return loss_sum

    def logits(self, batch: Batch) -> Tensor:
        logits = super().logits(batch)
        give_back(self.replica.model)
        return logits


def give_back(model: nn.Module) -> None:
    """Drop the weights that a forward without backward leaves gathered."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def shard(model: nn.Module, prefixes: Sequence[str], config: Config, mesh: DeviceMesh) -> FSDPModule:
    """Shard the model in place, each block its own unit and the root last; gradients are summed, never averaged."""
    import warnings

    import torch
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    from worldsize.train.precision import AUTOCAST

    # torch warns of writing into the logits, which are a view; the loss does not.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    policy = MixedPrecisionPolicy()
    if config.train.precision in AUTOCAST:
        policy = MixedPrecisionPolicy(param_dtype=AUTOCAST[config.train.precision], reduce_dtype=torch.float32)
    reshard = config.parallel.zero_stage != 2
    blocks = [model.get_submodule(prefix) for prefix in prefixes]
    for module in [*blocks, model]:
        # The root's reshard_after_forward stays unset: torch keeps a root gathered until its backward, which is next.
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=None if module is model else reshard)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no reduction that scales
    if config.parallel.prefetch_blocks is not None:
        prefetch(blocks, config.parallel.prefetch_blocks)
    assert isinstance(model, FSDPModule)
    return model


def prefetch(blocks: Sequence[Any], num_ahead: int) -> None:
    """Let each sharded block, when its turn comes, have the next ones' weights gathered too, in either direction."""
    for index, block in enumerate(blocks):
        block.set_modules_to_forward_prefetch(blocks[index + 1 : index + 1 + num_ahead])
        block.set_modules_to_backward_prefetch(blocks[max(0, index - num_ahead) : index][::-1])


def units_of(model: ModelDescription) -> list[list[tuple[int, ...]]]:
    """Return the parameter shapes of each unit: the blocks in order, then the root."""
    units: dict[str, list[tuple[int, ...]]] = {prefix: [] for prefix in (*model.block_prefixes, "")}
    for name, shape in model.parameter_shapes.items():
        owner = next((prefix for prefix in model.block_prefixes if name.startswith(prefix + ".")), "")
        units[owner].append(shape)
    return list(units.values())


def padded_numel(shapes: Sequence[tuple[int, ...]], num_ranks: int) -> int:
    """Return the elements of a unit whose tensors are cut by rows, the rows rounded up to a multiple of the ranks."""
    return sum(-(-shape[0] // num_ranks) * num_ranks * math.prod(shape[1:]) for shape in shapes)
