"""A rank's part of a pipelined model with its optimizer: what it must agree on with the other stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from worldsize.config.schema import Config
from worldsize.data.batch import Batch
from worldsize.models.cost import ModelDescription
from worldsize.parallel.gradient_buckets import own_part
from worldsize.parallel.stages import TIED, Stages
from worldsize.parallel.tensor_replica import TensorReplica, whole_from_tp
from worldsize.train.precision import AgreeingScaler
from worldsize.train.replica import LossSum, Replica, whole
from worldsize.train.stage import Stage

if TYPE_CHECKING:
    from worldsize.measure.clock import StepClock
    from worldsize.measure.pipeline_log import StepNotes


@dataclass(frozen=True)
class Groups:
    """The process groups of one rank of a pipeline."""

    pp: dist.ProcessGroup
    """All stages of this rank's replica."""
    dp: dist.ProcessGroup | None
    """The same stages of the other replicas; None without any."""
    ends: dist.ProcessGroup | None
    """The ranks of first and last stage, where they share a tied head and this rank is one of them."""


class StageReplica(Replica):
    """Holds the parameters of one rank's stages, and what is left of the model around them."""

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        device: torch.device,
        *,
        stages: Stages,
        description: ModelDescription,
        pp_rank: int,
        groups: Groups,
        **of_tensor: Any,
    ) -> None:
        """`of_tensor`: what TensorReplica takes besides, where the stages are spread over tp."""
        self.names = stages.names_of(pp_rank, description)
        self.stages = stages
        self.description = description
        self.pp_rank = pp_rank
        self.groups = groups
        self.clock: StepClock | None = None
        self.notes: StepNotes | None = None
        self.dtype = next(model.parameters()).dtype
        """Of weights, of the residual stream between stages and of losses."""
        if of_tensor:
            of_tensor["description"] = description
        super().__init__(model, config, device, **of_tensor)
        if self.precision.scaler.is_enabled():
            self.precision.scaler = AgreeingScaler(device, self._overflow_of_any_stage)

    def sum_gradients(self) -> None:
        """Sum the gradients of the tied head's two copies, then all gradients over the replicas; nothing is overlapped.

        The loss is already divided by the global count of target tokens.
        """
        if self.groups.ends is not None:
            self._over_stages(self._gradient(TIED), self.groups.ends)
        if self.groups.dp is not None:
            for name in self.names:
                dist.all_reduce(self._gradient(name), group=self.groups.dp)
        self._sum_over_tp()
        self._mark("exposed_communication_s")

    def _sum_over_tp(self) -> None:
        """Without tp there is nothing to sum."""

    def _gradient(self, name: str) -> Tensor:
        """Return what this rank holds of a gradient."""
        gradient = self.model.get_parameter(name).grad
        assert gradient is not None
        return own_part(gradient)

    def _clip(self, max_norm: float) -> Tensor:
        """Clip the norm of the whole gradient, all stages together; a tied head counts once. Return it unclipped."""
        counted = [name for name in self.names if self.owner_of(name) == self.pp_rank]
        norm_squared = self._square(self.model.get_parameter(name) for name in counted)
        self._mark("optimizer_s")
        self._over_stages(norm_squared, self.groups.pp)
        self._mark("exposed_communication_s")
        norm = norm_squared.sqrt()
        self._scale(max_norm, norm)
        return norm

    def _scale(self, max_norm: float, norm: Tensor) -> None:
        nn.utils.clip_grads_with_norm_(self.model.parameters(), max_norm, norm)

    def _square(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Return the squared norm of some parameters' gradients."""
        return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]).square()

    def _overflow_of_any_stage(self, found_inf: Tensor) -> None:
        self._mark("optimizer_s")
        self._over_stages(found_inf, self.groups.pp, dist.ReduceOp.MAX)
        self._mark("exposed_communication_s")

    def _over_stages(
        self, tensor: Tensor, group: dist.ProcessGroup, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM
    ) -> None:
        """All-reduce among stages, in place, and note when: the first to come waits for the last to have computed."""
        if self.notes is None:
            dist.all_reduce(tensor, operation, group=group)
            return
        start = self.notes.log.now()
        dist.all_reduce(tensor, operation, group=group)
        self.notes.waits.append((start, self.notes.log.now()))

    def _mark(self, phase: str) -> None:
        if self.clock is not None:
            self.clock.mark(phase)

    def owner_of(self, name: str) -> int:
        """Return the pipeline rank whose copy of a parameter counts."""
        return self.stages.owner_of(name, self.description)

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter of the whole model, each sent round by the rank that owns it. A collective.

        A rank that holds a copy yields its own, so that a checksum notices when the two have parted.
        """
        for name, shape in self.description.parameter_shapes.items():
            if name in self.names:
                value = self._whole_value(name).contiguous()
            else:
                value = torch.empty(shape, dtype=self.dtype, device=self.device)
            sent = value if self.owner_of(name) == self.pp_rank else value.clone()
            dist.broadcast(sent, group=self.groups.pp, group_src=self.owner_of(name))
            yield name, value if name in self.names else sent

    def _whole_value(self, name: str) -> Tensor:
        return whole(self.model.get_parameter(name).detach())

    def evaluate_stages(
        self, modules: Mapping[int, Stage], batch: Batch, activation: tuple[int, int], loss_sum: LossSum
    ) -> Tensor:
        """Return one micro batch's summed loss on the pipeline's last rank; every other rank returns 0."""
        logits = self._through_stages(modules, batch, activation)
        zero = torch.zeros((), dtype=self.dtype, device=self.device)
        loss = loss_sum(logits, batch.targets_BT, 0.0) if self._last in modules else zero
        return self.on_last_rank(loss)

    def logits_of_stages(
        self, modules: Mapping[int, Stage], batch: Batch, activation: tuple[int, int], logits: tuple[int, ...]
    ) -> Tensor:
        """Return one micro batch's logits, shaped (B, *logits), on every rank of the pipeline, in fp32."""
        out = self._through_stages(modules, batch, activation).float()
        if self._last not in modules:
            out = torch.empty((batch.tokens_BT.shape[0], *logits), device=self.device)
        dist.broadcast(out.contiguous(), group=self.groups.pp, group_src=self.stages.rank_of(self._last))
        return out

    @torch.no_grad()
    def _through_stages(self, modules: Mapping[int, Stage], batch: Batch, activation: tuple[int, int]) -> Tensor:
        """Send one micro batch of any size through all stages; return what this rank's last stage makes of it.

        `modules` are this rank's stages; what they pass on has the shape (B, *activation).
        """
        self.model.eval()
        x = batch.tokens_BT
        for stage, module in sorted(modules.items()):
            source, target = (self.stages.rank_of(each) for each in (max(stage - 1, 0), min(stage + 1, self._last)))
            if source != self.pp_rank:
                num_samples = batch.tokens_BT.shape[0]
                x = torch.empty((num_samples, *activation), dtype=self.dtype, device=self.device)
                dist.recv(x, group=self.groups.pp, group_src=source)
            module.segments_BT = batch.segments_BT
            x = module(x)
            if target != self.pp_rank:
                dist.send(x.contiguous(), group=self.groups.pp, group_dst=target)
        self.model.train()
        return x

    @property
    def _last(self) -> int:
        return self.stages.num_stages - 1

    def on_last_rank(self, loss: Tensor) -> Tensor:
        """Hand a loss from the last stage's rank to the pipeline's last rank, which reports it; in a V these differ."""
        holder, reporter = self.stages.rank_of(self._last), self.stages.num_ranks - 1
        if holder == reporter:
            return loss
        if self.pp_rank == holder:
            dist.send(loss, group=self.groups.pp, group_dst=reporter)
        elif self.pp_rank == reporter:
            dist.recv(loss, group=self.groups.pp, group_src=holder)
        return loss


class TensorStageReplica(StageReplica, TensorReplica):
    """The same, of stages that are spread over tp."""

    _square = TensorReplica._square
    _scale = TensorReplica._scale

    def _sum_over_tp(self) -> None:
        self.sum_replicated()

    def _whole_value(self, name: str) -> Tensor:
        return self._as_on_one_device(name, whole_from_tp(self.model.get_parameter(name).detach()))
