"""A whole model with its optimizer on one rank: what the data-parallel strategies have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from worldsize.config.schema import Config
from worldsize.data.batch import Batch
from worldsize.models.cost import describe
from worldsize.train.activation_checkpointing import checkpoint_modules, recomputed_modules
from worldsize.train.loss import loss_sum
from worldsize.train.optimizer import adamw, set_learning_rate
from worldsize.train.precision import Precision

LossSum = Callable[[Tensor, Tensor, float], Tensor]
"""(logits, targets) → the loss summed over targets."""


class Objective(nn.Module):
    """A model and its loss as one module, so that compilation and DDP see the whole of forward."""

    def __init__(self, model: nn.Module, loss: LossSum = loss_sum, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self._loss_sum = loss
        self.label_smoothing = label_smoothing

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
        """Return the loss summed over this micro batch's targets; evaluation is without label smoothing."""
        logits = self.model(tokens_BT) if segments_BT is None else self.model(tokens_BT, segments_BT)
        return self._loss_sum(logits, targets_BT, self.label_smoothing if self.model.training else 0.0)


class Replica:
    """Runs forward, backward and update; knows nothing of other ranks. `loss` is the one for the model's output."""

    def __init__(self, model: nn.Module, config: Config, device: torch.device, loss: LossSum = loss_sum) -> None:
        self.model = model
        self.device = device
        self.precision = Precision(config.train.precision, device, config.model.context_length)
        self.grad_clip_norm = config.train.grad_clip_norm
        checkpoint_modules(model, recomputed_modules(config.train.activation_checkpointing, describe(config.model)))
        self.optimizer = adamw(model, config.optimizer)
        self._plain_objective = Objective(model, loss, config.train.label_smoothing)
        self.objective: nn.Module = self._plain_objective
        if config.train.compile:
            # Compiled in place, so that parameter names and DDP's view of the module stay as they are.
            self._plain_objective.compile(dynamic=False)

    def forward_backward(self, micro_batches: Sequence[Batch]) -> Tensor:
        """Add the micro batches' gradients; return their summed loss, a scalar on the device, unsynchronised."""
        total = torch.zeros((), device=self.device, dtype=self.precision.sum_dtype)
        for batch in micro_batches:
            with self.precision.forward():
                loss_sum = self.objective(batch.tokens_BT, batch.targets_BT, batch.segments_BT)
            self.precision.scaler.scale(loss_sum / batch.global_target_tokens).backward()
            total += loss_sum.detach()
        return total

    def update(self, learning_rate: float) -> Tensor | None:
        """Clip, step, clear the gradients; return the gradient's norm before clipping, or None without clipping."""
        set_learning_rate(self.optimizer, learning_rate)
        self.precision.scaler.unscale_(self.optimizer)
        grad_norm = None if self.grad_clip_norm is None else self._clip(self.grad_clip_norm)
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return grad_norm

    def _clip(self, max_norm: float) -> Tensor:
        """Clip the gradient's global norm, that of all shards where the parameters are sharded; return it unclipped."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = whole(nn.utils.get_total_norm(gradients))
        nn.utils.clip_grads_with_norm_(self.model.parameters(), max_norm, norm)
        return norm

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Tensor:
        """Return the loss summed over one micro batch, without gradients or dropout, a scalar on the device."""
        self.model.eval()
        with self.precision.forward():
            loss_sum = Objective.forward(self._plain_objective, batch.tokens_BT, batch.targets_BT, batch.segments_BT)
        self.model.train()
        return loss_sum

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Return the model's logits of one micro batch in fp32, without gradients or dropout."""
        self.model.eval()
        with self.precision.forward():
            inputs = (batch.tokens_BT,) if batch.segments_BT is None else (batch.tokens_BT, batch.segments_BT)
            logits: Tensor = self.model(*inputs)
        self.model.train()
        return logits.float()

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter's name and its whole tensor, gathered from its shards where it is sharded."""
        for name, parameter in self.model.named_parameters():
            yield name, whole(parameter.detach())

    def held_bytes(self) -> int:
        """Return the bytes of weights and of the optimizer's moments that this rank keeps between steps."""
        tensors = {*self.model.parameters(), *self.optimizer.state}  # engines update weights of their own beside
        tensors |= {kept for state in self.optimizer.state.values() for kept in state.values() if kept.ndim}
        local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
        return sum(tensor.numel() * tensor.element_size() for tensor in local)

    def state(self) -> dict[str, Any]:
        """Return weights, optimizer and scaler state by parameter name."""
        from torch.distributed.checkpoint.state_dict import get_state_dict

        weights, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": weights, "optimizer": optimizer, "scaler": self.precision.scaler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a state of the same names and shapes as `state` returns."""
        from torch.distributed.checkpoint.state_dict import set_state_dict

        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.precision.scaler.load_state_dict(state["scaler"])


def whole(tensor: Tensor) -> Tensor:
    """Return a distributed tensor's whole value, the same on every rank; any other tensor as it is. A collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
