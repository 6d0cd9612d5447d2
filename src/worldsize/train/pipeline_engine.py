"""torch.distributed.pipelining around one rank's stages: schedules by name, and notes of what ran when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)

from worldsize.data.batch import IGNORED_TARGET, Batch
from worldsize.measure.pipeline_log import StepNotes
from worldsize.parallel.schedule import Action, Kind
from worldsize.train.replica import LossSum
from worldsize.train.stage import Stage, padded

SCHEDULES: Mapping[str, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved": ScheduleInterleaved1F1B,
    "zero_bubble": ScheduleInterleavedZeroBubble,
    "zero_bubble_v": ScheduleZBVZeroBubble,
    "model_parallel": ScheduleGPipe,
}
SEVERAL_STAGES = ("interleaved", "zero_bubble", "zero_bubble_v")


class NotedStage(PipelineStage):
    """A stage that notes its actions, and lets an error out as it was raised."""

    notes: StepNotes | None = None
    first_micro_batch = 0
    segments: Sequence[Tensor] = ()
    """Of each micro batch of the turn; empty where there are none."""

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(self.submod, Stage)
        self.submod.segments_BT = self.segments[fwd_chunk_id] if self.segments else None
        with self._noted("F", fwd_chunk_id):
            return super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        with self._noted("B" if full_backward else "I", bwd_chunk_id):
            super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:
        with self._noted("W", bwd_chunk_id):
            super().backward_weight_one_chunk(bwd_chunk_id, *args, **kwargs)

    @contextmanager
    def _noted(self, kind: Kind, micro_batch: int) -> Iterator[None]:
        start = self.notes.log.now() if self.notes else None
        try:
            yield
        except RuntimeError as error:
            if error.__cause__ is not None:
                raise error.__cause__ from None  # the engine's own message names shapes, and hides what went wrong
            raise
        if self.notes:
            action = Action(kind, self.stage_index, self.first_micro_batch + micro_batch)
            self.notes.actions.append((action, start, self.notes.log.now()))


@dataclass(frozen=True)
class Shapes:
    """What passes between stages: every micro batch in the same shape."""

    micro_batch: int
    length: int
    own_length: int
    width: int
    logits_of_sample: tuple[int, ...]
    """(T, this rank's rows of the vocabulary), or (K) of a classifier."""
    dtype: torch.dtype
    """Of the residual stream, under autocast too."""
    logits_dtype: torch.dtype
    device: torch.device

    def tokens(self) -> Tensor:
        return torch.empty(self.micro_batch, self.length, dtype=torch.int64, device="meta")

    def activations(self) -> Tensor:
        return self._with_gradient((self.own_length, self.width), self.dtype)

    def logits(self) -> Tensor:
        return self._with_gradient(self.logits_of_sample, self.logits_dtype)

    def _with_gradient(self, of_sample: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The engine sends gradients back only where these say that there are any."""
        return torch.empty(self.micro_batch, *of_sample, dtype=dtype, device="meta", requires_grad=True)


class Engine:
    """One rank's stages and their schedule."""

    def __init__(
        self,
        modules: Mapping[int, Stage],
        num_stages: int,
        schedule: str,
        num_micro_batches: int,
        shapes: Shapes,
        group: dist.ProcessGroup,
        loss: LossSum,
        label_smoothing: float,
        scale: Callable[[Tensor], Tensor],
    ) -> None:
        """`scale` makes fp16's losses large before backward; every other precision's stay as they are."""
        self.stages = [
            NotedStage(
                module, index, num_stages, shapes.device, group=group,
                input_args=shapes.tokens() if module.is_first else shapes.activations(),
                output_args=shapes.logits() if module.is_last else shapes.activations(),
            )
            for index, module in sorted(modules.items())
        ]  # fmt: skip
        self.one_at_a_time = schedule == "model_parallel"
        self.shapes = shapes
        self.loss, self.label_smoothing, self._scale = loss, label_smoothing, scale
        self._holds_first = 0 in modules
        self._holds_last = num_stages - 1 in modules
        self._notes: StepNotes | None = None
        self._global_target_tokens = 1
        self._loss_sum = torch.zeros((), dtype=shapes.dtype, device=shapes.device)
        self._schedule = SCHEDULES[schedule](
            self.stages if schedule in SEVERAL_STAGES else self.stages[0],
            n_microbatches=1 if self.one_at_a_time else num_micro_batches,
            loss_fn=self._loss,
            scale_grads=False,
        )

    def run(self, micro_batches: Sequence[Batch], notes: StepNotes | None) -> Tensor:
        """Carry out the schedule: gradients are added up; return the summed loss, 0 but on the last stage's rank."""
        self._notes = notes
        self._global_target_tokens = micro_batches[0].global_target_tokens
        self._loss_sum = torch.zeros_like(self._loss_sum)
        if notes is not None:
            notes.begin()
        turns = [[batch] for batch in micro_batches] if self.one_at_a_time else [micro_batches]
        for turn, batches in enumerate(turns):
            for stage in self.stages:
                stage.notes, stage.first_micro_batch = notes, turn
                stage.segments = self._segments(batches)
            tokens = [padded(batch.tokens_BT, self.shapes.micro_batch, 0) for batch in batches]
            targets = [padded(batch.targets_BT, self.shapes.micro_batch, IGNORED_TARGET) for batch in batches]
            self._schedule.step(
                *([torch.cat(tokens)] if self._holds_first else []),
                target=torch.cat(targets) if self._holds_last else None,
                return_outputs=False,
            )
        if notes is not None:
            notes.end()
        return self._loss_sum

    def _segments(self, batches: Sequence[Batch]) -> list[Tensor]:
        """Return each micro batch's segments, none where there are none. A row that is added is one text, so that it
        has a mean."""
        segments = [batch.segments_BT for batch in batches if batch.segments_BT is not None]
        return [padded(each, self.shapes.micro_batch, 1) for each in segments]

    def _loss(self, logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
        loss = self.loss(logits_BTV, targets_BT, self.label_smoothing)
        self._loss_sum += loss.detach()
        scaled = self._scale(loss / self._global_target_tokens)
        if self._notes is not None:
            self._notes.extend()
        return scaled
