"""The ranks along tp, and what passes between them within forward and backward.

Between blocks each rank holds its part of every sequence. A column-parallel linear needs the whole sequence, so the
parts are gathered before it, and in backward what the ranks found for it is summed, each keeping its part; a
row-parallel linear ends in such a sum, and in backward its parts are gathered (Korthikanti et al. 2022,
arXiv:2205.05198, section 4.2.2). On a CPU the calls return when they have ended, and on CUDA the compute stream waits
for them, so what lies between the marks around a collective is exposed communication on both.

Letters: B samples, T positions, N = B·T, C width, V rows of the vocabulary; t = T / ranks, v = V / ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from worldsize.data.batch import IGNORED_TARGET
from worldsize.measure.fsdp_clock import all_gather_single, reduce_scatter_single
from worldsize.models.cost import ModelDescription
from worldsize.parallel.tensor_bytes import part_of
from worldsize.train.loss import loss_sum

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class Marks(Protocol):
    """The part of a clock that is called here."""

    def mark(self, phase: str) -> None: ...


class TensorAxis:
    """One rank's group along tp. Every method but `part_of` is a collective of that group."""

    def __init__(self, mesh: DeviceMesh, vocabulary: int) -> None:
        """`vocabulary`: the rows that the ranks share, of which the last may have fewer."""
        self.vocabulary = vocabulary
        self.group = mesh.get_group()
        self.size = mesh.size()
        self.rank = mesh.get_local_rank()
        self.clock: Marks | None = None
        """Of the step under way; outside a step there is none."""

    def part_of(self, length: int) -> slice:
        """Return where this rank's part of `length` positions, rows or columns lies."""
        return part_of(length, self.rank, self.size)

    def gathered(self, x_BtC: Tensor) -> Tensor:
        """Return x_BTC from every rank's part; in backward the ranks' gradients of it are summed."""
        if torch.is_autocast_enabled(x_BtC.device.type):  # the product that follows would round to it anyway
            x_BtC = x_BtC.to(torch.get_autocast_dtype(x_BtC.device.type))
        return _Gathered.apply(x_BtC, self)  # type: ignore[no-any-return, no-untyped-call]

    def summed(self, x_BTC: Tensor) -> Tensor:
        """Return this rank's part, x_BtC, of the sum over ranks; in backward the parts' gradients are gathered."""
        return _Summed.apply(x_BTC, self)  # type: ignore[no-any-return, no-untyped-call]

    def loss_sum(self, logits_BTv: Tensor, targets_BT: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return what `train.loss.loss_sum` does, the same on every rank, from each rank's columns of the logits."""
        logits_Nv = logits_BTv.flatten(0, 1)
        logits_Nv = logits_Nv.to(torch.promote_types(logits_Nv.dtype, torch.float32))
        return _LossSum.apply(logits_Nv, targets_BT.flatten(), self, label_smoothing)  # type: ignore[no-any-return, no-untyped-call]

    def loss_of_classes(self, logits_BK: Tensor, targets_B: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return `train.loss.loss_sum` of logits that every rank holds whole.

        Each rank's backward starts from its share of the gradient, 1 / ranks: what follows sums over ranks, as each
        part of a sequence adds its own.
        """
        loss = loss_sum(logits_BK, targets_B, label_smoothing)
        share = loss / self.size
        return loss.detach() + (share - share.detach())  # the value of the whole loss, the gradient of the share

    def loss_for(self, model: ModelDescription) -> Callable[[Tensor, Tensor, float], Tensor]:
        """Return the loss of the logits that the model ends in on each rank."""
        return self.loss_of_classes if model.classifier else self.loss_sum

    def all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """Combine `tensor` in place over the ranks, and return it."""
        with self._exposed():
            dist.all_reduce(tensor, op, group=self.group)
        return tensor

    def gather(self, x_BtC: Tensor) -> Tensor:
        """Return every rank's part, one after the other along the second dimension."""
        parts_rBtC = x_BtC.new_empty(self.size, *x_BtC.shape)
        with self._exposed():
            all_gather_single(parts_rBtC.flatten(0, 1), x_BtC.contiguous(), group=self.group)
        return parts_rBtC.transpose(0, 1).flatten(1, 2)

    def sum_scatter(self, x_BTC: Tensor) -> Tensor:
        """Return this rank's part, along the second dimension, of the sum over ranks."""
        parts_rBtC = torch.unflatten(x_BTC, 1, (self.size, -1)).transpose(0, 1).contiguous()
        sum_BtC = torch.empty_like(parts_rBtC[0])
        with self._exposed():
            reduce_scatter_single(sum_BtC, parts_rBtC.flatten(0, 1), group=self.group)
        return sum_BtC

    @contextmanager
    def _exposed(self) -> Iterator[None]:
        """Book the time until here as compute, and what happens within as exposed communication."""
        if self.clock is not None:
            self.clock.mark("compute_s")
        yield
        if self.clock is not None:
            self.clock.mark("exposed_communication_s")


class _Gathered(Function):
    @staticmethod
    def forward(ctx: Any, x_BtC: Tensor, axis: TensorAxis) -> Tensor:
        ctx.axis = axis
        return axis.gather(x_BtC)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.axis.sum_scatter(grads[0]), None


class _Summed(Function):
    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, axis: TensorAxis) -> Tensor:
        ctx.axis = axis
        return axis.sum_scatter(x_BTC)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.axis.gather(grads[0]), None


class _LossSum(Function):
    """Cross entropy without gathering logits: over ranks go the largest of a row, its sum and its target's logit."""

    @staticmethod
    def forward(ctx: Any, logits_Nv: Tensor, targets_N: Tensor, axis: TensorAxis, smoothing: float) -> Tensor:
        columns_N = targets_N - axis.part_of(axis.vocabulary).start
        is_here_N = (columns_N >= 0) & (columns_N < logits_Nv.shape[1])
        columns_N = columns_N.where(is_here_N, 0)
        largest_N = axis.all_reduce(logits_Nv.amax(1), dist.ReduceOp.MAX)
        shifted_Nv = logits_Nv - largest_N.unsqueeze(1)
        target_N = shifted_Nv.gather(1, columns_N.unsqueeze(1)).squeeze(1) * is_here_N
        sums = [target_N, shifted_Nv.sum(1)] if smoothing else [target_N]
        exp_Nv = shifted_Nv.exp_()
        total_N, target_N, *all_logits_N = axis.all_reduce(torch.stack([exp_Nv.sum(1), *sums]))
        loss_N = total_N.log() - (1 - smoothing) * target_N
        for logit_sum_N in all_logits_N:
            loss_N = loss_N - smoothing / axis.vocabulary * logit_sum_N
        counts_N = targets_N != IGNORED_TARGET
        ctx.save_for_backward(exp_Nv.div_(total_N.unsqueeze(1)), columns_N, is_here_N, counts_N)
        ctx.smoothing, ctx.vocabulary = smoothing, axis.vocabulary
        loss_sum: Tensor = loss_N.where(counts_N, 0).sum()
        return loss_sum

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        softmax_Nv, columns_N, is_here_N, counts_N = ctx.saved_tensors
        scale_N = grads[0] * counts_N
        grad_Nv = (softmax_Nv - ctx.smoothing / ctx.vocabulary) * scale_N.unsqueeze(1)
        of_target_N = (ctx.smoothing - 1) * scale_N * is_here_N
        grad_Nv.scatter_add_(1, columns_N.unsqueeze(1), of_target_N.unsqueeze(1))
        return grad_Nv, None, None, None
