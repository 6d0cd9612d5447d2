"""ZeRO stages 0 to 3 by DeepSpeed's engine (Rajbhandari et al. 2020, arXiv:1910.02054).

Stage 0 sums gradients like DDP; 1 cuts the optimizer's moments over the ranks, 2 the gradients too, 3 the weights too.
DeepSpeed averages gradients over ranks and over micro batches. Our loss is divided by the global count of target tokens
already, so each micro batch's loss is multiplied by the number of ranks and DeepSpeed's division by the number of micro
batches is left out: what remains is the sum.

Under fp16 DeepSpeed's engine stays in fp32, and the module autocasts within it, as on one device. DeepSpeed's own fp16
keeps weights in fp16 and refuses most CPUs, and its `torch_autocast` clips by the norm of gradients that are still
scaled. The loss scale is torch's scaler's: stages 1 to 3 take it as an external one, find an overflow by the norm of
the whole gradient, which all ranks share, and leave the step out; at stage 0 the scaler itself steps.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from worldsize.config.schema import Config
from worldsize.models.cost import BF16_BYTES, FP32_BYTES
from worldsize.parallel import deepspeed_config
from worldsize.parallel.data_parallel import HoldsReplica, dp_alone
from worldsize.parallel.deepspeed_communication import collectives
from worldsize.parallel.layout import Layout, batches_for
from worldsize.parallel.strategy import StepOutput
from worldsize.records import CollectiveCount

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from worldsize.data.batch import Batch
    from worldsize.measure.clock import StepClock
    from worldsize.models.cost import ModelDescription
    from worldsize.parallel.context import RankContext

MOMENTS = ("exp_avg", "exp_avg_sq")


class DeepSpeed(HoldsReplica):
    """Ranks see different samples; how much of the replica each keeps is the stage."""

    name: ClassVar[str] = "deepspeed"
    can_skip_exchange: ClassVar[bool] = False

    @staticmethod
    def legal(config: Config, layout: Layout) -> list[str]:
        reasons = dp_alone("deepspeed", layout)
        if importlib.util.find_spec("deepspeed") is None:
            reasons.append(
                "strategy 'deepspeed' needs the package deepspeed, which is not installed; pip install \"worldsize["
                'deepspeed]", or use parallel.strategy=fsdp'
            )
        precision = config.train.precision
        if precision == "fp64":
            reasons.append(
                "strategy 'deepspeed' keeps its weights in fp32, and train.precision=fp64 was asked for; use "
                "train.precision=fp32, or parallel.strategy=ddp"
            )
        contradictions = deepspeed_config.contradictions(config, layout)
        if precision == "bf16" and not contradictions and deepspeed_config.stage_of(config) == 0:
            reasons.append(
                "strategy 'deepspeed' at stage 0 clips bf16's gradients in bf16; use parallel.zero_stage=1, or "
                "parallel.strategy=ddp"
            )
        if config.train.compile:
            reasons.append("strategy 'deepspeed' runs uncompiled; use train.compile=false, or parallel.strategy=ddp")
        return [*reasons, *contradictions]

    @staticmethod
    def communication(config: Config, layout: Layout, model: ModelDescription) -> list[CollectiveCount]:
        return collectives(
            model,
            layout.dp,
            stage=deepspeed_config.stage_of(config),
            num_micro_batches=batches_for(config.train, layout).accumulation,
            element_bytes=BF16_BYTES if config.train.precision == "bf16" else FP32_BYTES,
            zero=deepspeed_config.merged(config, layout)["zero_optimization"],
        )

    def prepare(self, model: nn.Module, config: Config, context: RankContext) -> None:
        from worldsize.train.precision import Autocasting
        from worldsize.train.replica import Replica

        deepspeed = quiet_deepspeed(context.device, context.local_rank)
        from worldsize.measure.deepspeed_clock import marks_on

        self._stage = deepspeed_config.stage_of(config)
        self._rank, self._num_ranks = context.rank, context.layout.dp
        self._keeps_whole = self._stage < 3 and config.train.precision != "bf16"
        self.replica = Replica(model, config, context.device)
        settings = deepspeed_config.merged(config, context.layout)
        exact = {}
        if config.train.precision == "bf16":
            exact = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        if self._stage == 0:
            settings["gradient_clipping"] = 0.0  # there DeepSpeed clips, but does not tell the norm: we clip
        module = self.replica.objective
        if config.train.precision == "fp16":
            module = Autocasting(module, self.replica.precision)
        self.engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=self.replica.optimizer,
            config=settings,
            dist_init_required=False,
        )
        if self._stage == 0 and config.train.precision == "fp16":
            self.engine.torch_autocast_z0_gradscaler = self.replica.precision.scaler
        for name, weight in model.named_parameters():
            if name in exact:  # DeepSpeed makes its fp32 weights of those already rounded to bf16
                deepspeed.utils.safe_set_full_fp32_param(weight, exact[name])
        self._marks = marks_on(deepspeed.comm.comm.cdb, context.device)

    def step(
        self, micro_batches: Sequence[Batch], learning_rate: float, clock: StepClock, *, exchange: bool = True
    ) -> StepOutput:
        from worldsize.train.optimizer import set_learning_rate

        if not exchange:
            raise ValueError("strategy 'deepspeed' cannot leave its exchange out: its ranks hold parts of one replica")
        with self._marks.on(clock):
            with self._one_exchange(len(micro_batches)):
                loss_sum = self._forward_backward(micro_batches)
            self.engine.set_gradient_accumulation_boundary(True)  # which it was before `_one_exchange` put it back
            clock.mark_exchange()
            set_learning_rate(self.replica.optimizer, learning_rate)
            grad_norm = self._update()
        clock.mark("optimizer_s")
        return StepOutput(loss_sum, grad_norm)

    def _forward_backward(self, micro_batches: Sequence[Batch]) -> Tensor:
        """Add the micro batches' gradients; return their summed loss."""
        import torch

        loss_sum = torch.zeros((), device=self.replica.device)
        last = len(micro_batches) - 1
        self._set_loss_scale()
        for index, batch in enumerate(micro_batches):
            self.engine.set_gradient_accumulation_boundary(index == last)
            loss = self.engine(batch.tokens_BT, batch.targets_BT, batch.segments_BT)
            factor = self._num_ranks / batch.global_target_tokens
            self.engine.backward(loss * factor, scale_wrt_gas=False)
            loss_sum += loss.detach()
        return loss_sum

    def _one_exchange(self, num_micro_batches: int) -> AbstractContextManager[None]:
        """Keep gradients whole until the last micro batch's are there: stages 2 and 3 would exchange those of each."""
        if self._stage < 2 or num_micro_batches == 1:
            return nullcontext()
        exchanges_at_exit: AbstractContextManager[None] = self.engine.coalesce_grad_reduction()
        return exchanges_at_exit

    @property
    def _scales(self) -> bool:
        """Whether DeepSpeed's optimizer scales losses by a scale that is set from outside."""
        return self._stage > 0 and self.replica.precision.scaler.is_enabled()

    def _set_loss_scale(self) -> None:
        if self._scales:
            self.engine.optimizer.override_loss_scale(self.replica.precision.scaler.get_scale())

    def _update(self) -> Tensor | None:
        """Clip and step; return the gradient's norm before clipping, or None without clipping."""
        import torch

        max_norm = self.replica.grad_clip_norm
        norm: Tensor | float | None = None
        self._marks.phase = "optimizer_s"
        if self._stage == 0 and max_norm is not None:
            self.replica.precision.scaler.unscale_(self.replica.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.replica.model.parameters(), max_norm)
        self.engine.step()
        if self._scales:
            self.replica.precision.tell(overflowed=bool(self.engine.optimizer.overflow))
        self._marks.phase = "compute_s"
        if max_norm is None:
            return None
        if norm is None:
            norm = self.engine.get_global_grad_norm()
        return torch.as_tensor(norm, dtype=torch.float32, device=self.replica.device)

    def evaluate(self, batch: Batch) -> Tensor:
        import torch

        self.engine.eval()
        with torch.no_grad():
            loss_sum: Tensor = self.engine(batch.tokens_BT, batch.targets_BT, batch.segments_BT)
        self.engine.train()
        self.engine.empty_partition_cache()  # stage 3 keeps weights for a backward that does not come
        return loss_sum

    def held_bytes(self) -> int:
        """Stage 3 keeps each weight's own part beside the module, whose weights it empties."""
        parts = [getattr(weight, "ds_tensor", None) for weight in self.replica.model.parameters()]
        beside: int = sum(part.numel() * part.element_size() for part in parts if part is not None)
        return super().held_bytes() + beside

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        from deepspeed.utils import safe_get_full_fp32_param

        for name, parameter in self.replica.model.named_parameters():
            yield name, parameter.detach() if self._keeps_whole else safe_get_full_fp32_param(parameter)

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a state of whole tensors, each rank its partition. A collective on every rank."""
        if self._stage == 0:
            self.replica.load_state(state)
            return
        import deepspeed
        from deepspeed import utils

        if self._stage == 3:  # by parts, since DeepSpeed does not pad a whole whose parts are unequal
            set_weight, set_moment = utils.safe_set_local_fp32_param, utils.safe_set_local_optimizer_state
        else:
            set_weight, set_moment = utils.safe_set_full_fp32_param, utils.safe_set_full_optimizer_state
        moments = state["optimizer"]["state"]
        for name, parameter in self.replica.model.named_parameters():
            whole = state["model"][name]
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self._stage == 3):
                parameter.data.copy_(whole)
            set_weight(parameter, self._part_of(whole))
            for key in MOMENTS:
                set_moment(parameter, self._part_of(moments[name][key]), key)
        for kept in self.replica.optimizer.state.values():
            kept["step"].copy_(moments[name]["step"])
        self.replica.precision.scaler.load_state_dict(state["scaler"])

    def _part_of(self, whole: Tensor) -> Tensor:
        """Return this rank's equal part of the flat tensor, padded at its end, under stage 3; else the tensor."""
        import torch.nn.functional as F

        if self._stage < 3:
            return whole
        padded = F.pad(whole.flatten(), (0, -whole.numel() % self._num_ranks))
        return padded.chunk(self._num_ranks)[self._rank]

    def state(self) -> dict[str, Any]:
        """Return weights and moments whole, gathered from DeepSpeed's partitions. A collective on every rank."""
        if self._stage == 0:
            return self.replica.state()
        from deepspeed.utils import lazy_init_hp_params_optimizer_state, safe_get_full_optimizer_state

        optimizer, zero = self.replica.optimizer, self.engine.optimizer
        if self._stage < 3:  # DeepSpeed links moments to parameters after the first group's first step, for all groups
            for parameters, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
                lazy_init_hp_params_optimizer_state(parameters, flat, optimizer.state)
        steps = next(iter(optimizer.state.values()))["step"]
        moments = {
            name: {"step": steps} | {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            for name, parameter in self.replica.model.named_parameters()
        }
        groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        return {
            "model": dict(self.full_parameters()),
            "optimizer": {"state": moments, "param_groups": groups},
            "scaler": self.replica.precision.scaler.state_dict(),
        }


def quiet_deepspeed(device: torch.device, local_rank: int) -> Any:
    """Import deepspeed for a device without its greetings, and without its compiling what nothing here uses."""
    import logging
    import warnings

    os.environ.setdefault("DS_ACCELERATOR", device.type)  # else it looks for one, and warns of finding a CPU
    os.environ.setdefault("LOCAL_RANK", str(local_rank))
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\..*` is deprecated", category=FutureWarning)
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    # All-reduce through shared memory, for inference on CPUs alone: compiled with g++ on first use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _leave_muon_out()
    return deepspeed


def _leave_muon_out() -> None:
    """Stand in for DeepSpeed's Muon optimizer, whose import compiles kernels: seconds on every rank.

    DeepSpeed imports it to ask whether the optimizer is one, and ours never is.
    """
    import sys
    from types import ModuleType

    module = ModuleType("deepspeed.runtime.zero.muon.muon_optimizer")
    module.MuonWithAuxAdam = type("MuonWithAuxAdam", (), {})  # type: ignore[attr-defined]
    sys.modules.setdefault(module.__name__, module)
