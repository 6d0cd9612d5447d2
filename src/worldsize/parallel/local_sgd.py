"""Local steps between averages, for slow links: each rank trains by itself and weights are averaged every k steps.

Plain averaging is local SGD (Stich 2019, arXiv:1805.09767). With an outer step (DiLoCo, Douillard et al. 2023,
arXiv:2311.08105) the averaged change of the weights since the last average is a gradient for SGD with Nesterov
momentum. It is not the same training as on one device: what it reaches is compared by loss at equal tokens. AdamW's
moments stay each rank's own, and each rank clips its own gradient. Under fp16 each has its own loss scale, and skips a
step by itself where its own gradient overflows; weights that it then did not change count in the average all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

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


class LocalSGD(HoldsReplica):
    """Every rank holds the whole model, sees its share of the samples, and differs from the others between averages."""

    name: ClassVar[str] = "local_sgd"
    can_skip_exchange: ClassVar[bool] = True
    same_maths: ClassVar[bool] = False

    @staticmethod
    def legal(config: Config, layout: Layout) -> list[str]:
        reasons = dp_alone("local_sgd", layout)
        steps, every, warmup = config.train.steps, config.parallel.local_steps, config.measure.warmup_steps
        if steps % every:
            nearest = " or ".join(str(n) for n in (steps // every * every, (steps // every + 1) * every) if n)
            reasons.append(
                f"train.steps={steps} would end between two averages of parallel.local_steps={every}; use train.steps="
                f"{nearest}"
            )
        elif steps - warmup < every:
            reasons.append(
                f"train.steps={steps} less measure.warmup_steps={warmup} leaves no whole period of parallel."
                f"local_steps={every} to time; use train.steps={-(-(warmup + every) // every) * every}"
            )
        return reasons

    @staticmethod
    def communication(config: Config, layout: Layout, model: ModelDescription) -> list[CollectiveCount]:
        """Return the mean of a step: an average of the weights, divided by the steps that it serves."""
        total_bytes = model.parameter_bytes(kept_bytes(config.train.precision)) // config.parallel.local_steps
        return [CollectiveCount(kind="all_reduce", group="dp", group_size=layout.dp, payload_bytes=total_bytes)]

    def prepare(self, model: nn.Module, config: Config, context: RankContext) -> None:
        import torch

        from worldsize.train.replica import Replica

        self.replica = Replica(model, config, context.device)
        self._rank, self._num_ranks = context.rank, context.layout.dp
        self._local_steps = config.parallel.local_steps
        self._num_steps = 0
        rate, momentum = config.parallel.outer_learning_rate, config.parallel.outer_momentum
        self._outer: torch.optim.SGD | None = None
        if (rate, momentum) != (1.0, 0.0):
            anchors = [torch.nn.Parameter(weight.detach().clone()) for weight in model.parameters()]
            self._outer = torch.optim.SGD(anchors, lr=rate, momentum=momentum, nesterov=momentum > 0)
            for anchor in anchors:  # as the first step would begin; so that a checkpoint always finds it
                self._outer.state[anchor]["momentum_buffer"] = torch.zeros_like(anchor)

    def step(
        self, micro_batches: Sequence[Batch], learning_rate: float, clock: StepClock, *, exchange: bool = True
    ) -> StepOutput:
        loss_sum = self.replica.forward_backward(micro_batches)
        # Its own sum over the global count, times the ranks: over the ranks these average to the whole gradient.
        for weight in self.replica.model.parameters():
            if weight.grad is not None:
                weight.grad.mul_(self._num_ranks)
        clock.mark("compute_s")
        grad_norm = self.replica.update(learning_rate)
        clock.mark("optimizer_s")
        self._num_steps += 1
        if exchange and self._num_steps % self._local_steps == 0:
            self._average()
            clock.mark("exposed_communication_s")
            self._outer_step()
            clock.mark("optimizer_s")
        return StepOutput(loss_sum, grad_norm)

    def _weights(self) -> list[Tensor]:
        return [weight.detach() for weight in self.replica.model.parameters()]

    def _average(self) -> None:
        """Replace every weight by its mean over the ranks."""
        import torch.distributed as dist

        for weight in self._weights():
            dist.all_reduce(weight)
            weight.div_(self._num_ranks)

    def _outer_step(self) -> None:
        """Step along the way from the last anchors to the averaged weights; nothing to do under plain averaging."""
        if self._outer is None:
            return
        anchors = self._outer.param_groups[0]["params"]
        for anchor, weight in zip(anchors, self._weights(), strict=True):
            anchor.grad = anchor.detach() - weight
        self._outer.step()
        for anchor, weight in zip(anchors, self._weights(), strict=True):
            weight.copy_(anchor.detach())

    def held_bytes(self) -> int:
        outer = [*self._anchors(), *self._momentum()]
        return self.replica.held_bytes() + sum(tensor.numel() * tensor.element_size() for tensor in outer)

    def state(self) -> dict[str, Any]:
        """Return the weights of rank 0's replica for who reads them, and each rank's state under its own number.

        Between averages, and in AdamW's moments always, ranks differ.
        """
        import torch

        own = self.replica.state()
        scaler = own["scaler"]
        # A checkpoint keeps rank 0's numbers alone, but each rank's tensors.
        own["scaler"] = {name: torch.tensor(value, dtype=torch.float64) for name, value in scaler.items()}
        own |= {"anchors": _numbered(self._anchors()), "momentum": _numbered(self._momentum())}
        readable = {name: weight.clone() for name, weight in own["model"].items()}  # apart: both are loaded in place
        shared = {"model": readable, "scaler": scaler, "num_steps": self._num_steps}
        return {**shared, "ranks": {str(self._rank): own}}

    def load_state(self, state: dict[str, Any]) -> None:
        own = state["ranks"][str(self._rank)]
        now = self.replica.precision.scaler.state_dict()
        scaler = {name: type(value)(own["scaler"][name].item()) for name, value in now.items()}
        self.replica.load_state({"model": own["model"], "optimizer": own["optimizer"], "scaler": scaler})
        for kept, tensors in (("anchors", self._anchors()), ("momentum", self._momentum())):
            for name, tensor in _numbered(tensors).items():
                tensor.copy_(own[kept][name])
        self._num_steps = state["num_steps"]

    def _anchors(self) -> list[Tensor]:
        """Return the weights as the last average left them; none under plain averaging."""
        return [anchor.detach() for anchor in self._outer.param_groups[0]["params"]] if self._outer else []

    def _momentum(self) -> list[Tensor]:
        return [state["momentum_buffer"] for state in self._outer.state.values()] if self._outer else []


def _numbered(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {str(index): tensor for index, tensor in enumerate(tensors)}


def period_of(config: Config) -> int:
    """Return the steps from one exchange to the next: k under local_sgd, 1 under every strategy in lock-step."""
    return config.parallel.local_steps if config.parallel.strategy == LocalSGD.name else 1
