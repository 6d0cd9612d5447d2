"""The training loop of one rank: steps between windows, and at each window's edge the only synchronisation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from worldsize.data.language_modelling import LanguageModelling
from worldsize.data.sampler import digest
from worldsize.launch.progress import Progress
from worldsize.measure import memory
from worldsize.parallel.local_sgd import period_of
from worldsize.parallel.strategy import StepOutput
from worldsize.records import Checksum, Evaluation, StepRow
from worldsize.train.checksum import weights_checksum
from worldsize.train.feed import Share, micro_batches
from worldsize.train.optimizer import learning_rate
from worldsize.train.running import Running


@dataclass
class TrainLog:
    """What the loop leaves behind on one rank."""

    rows: list[StepRow] = field(default_factory=list)
    contention_s: list[float] = field(default_factory=list)
    samples_digest: int = 0
    prescribed_digest: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    checksums: list[Checksum] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def timed_contention_s(self) -> list[float]:
        """Contention of the steps that count."""
        return [c for c, row in zip(self.contention_s, self.rows, strict=True) if not row.warmup]


@dataclass
class _Pending:
    """A step whose numbers are still on the device."""

    step: int
    share: Share
    output: StepOutput
    learning_rate: float


class Trainer:
    """Holds what the loop's parts share. Every method is called on every rank."""

    def __init__(
        self,
        running: Running,
        held_out: LanguageModelling | None,
        on_rows: Callable[[list[StepRow], list[float]], None],
    ) -> None:
        self.config = running.config
        self.context = running.context
        self.strategy = running.strategy
        self.feed = running.feed
        self.clock = running.clock
        self.where = running.where
        self.held_out = held_out
        self.log = TrainLog()
        self._say = running.say
        self._on_rows = on_rows
        self._pending: list[_Pending] = []

    def train(self) -> TrainLog:
        """Run all steps, evaluations and checksums of the config."""
        self.where.stage = "training"
        self._checksum(0)
        num_steps = self.config.train.steps
        began_s = time.perf_counter()
        for step in range(num_steps):
            self.where.step = step
            self._pending.append(self._timed_step(step))
            done = step + 1
            evaluates = self._evaluates_after(done)
            checks = done % self.config.train.checksum_every_steps == 0 or done == num_steps
            if done % self.config.measure.window_steps == 0 or evaluates or checks:
                self._close_window()
            if evaluates:
                self._evaluate(done)
            if checks:
                self._checksum(done)
        self.log.wall_s = time.perf_counter() - began_s
        return self.log

    def _evaluates_after(self, done: int) -> bool:
        every = self.config.train.eval_every_steps
        return self.held_out is not None and (
            done == self.config.train.steps or (every is not None and done % every == 0)
        )

    def _timed_step(self, step: int) -> _Pending:
        train = self.config.train
        rate = learning_rate(self.config.optimizer, step, train.steps)
        self.clock.start()
        share = self.feed.share(step)
        self.clock.mark("data_wait_s")
        if self.context.device.type != "cpu":
            share = share.to(self.context.device)
            self.clock.mark("host_to_device_s")
        output = self.strategy.step(share.micro_batches, rate, self.clock)
        self.clock.stop()
        return _Pending(step, share, output, rate)

    def _close_window(self) -> None:
        """Synchronise, turn the window's steps into rows, check the loss, tell people."""
        times = self.clock.window()
        pending, self._pending = self._pending, []
        counts = self.context.counts
        loss_sums = [x if counts else 0.0 for x in torch.stack([p.output.loss_sum for p in pending]).tolist()]
        losses = self._global_losses(pending, loss_sums)
        memory_bytes = memory.used_bytes(self.context.device)
        rows = [
            StepRow(
                step=p.step,
                warmup=p.step < self.config.measure.warmup_steps,
                wall_s=t.wall_s,
                phases_s=t.phases_s,
                num_samples=len(p.share.sample_ids) if counts else 0,
                num_tokens=p.share.num_tokens if counts else 0,
                loss_sum=loss_sum,
                grad_norm=_value(p.output.grad_norm),
                local_grad_norm=_value(p.output.local_grad_norm),
                learning_rate=p.learning_rate,
                memory_bytes=memory_bytes,
            )
            for p, t, loss_sum in zip(pending, times, loss_sums, strict=True)
        ]
        for p in pending:
            self.log.samples_digest += digest(p.step, p.share.sample_ids) if counts else 0
            self.log.prescribed_digest += digest(p.step, self.feed.prescribed_ids(p.step))
        self.log.rows += rows
        self.log.contention_s += [t.contention_s for t in times]
        self._on_rows(rows, losses)
        wall_s = sum(row.wall_s for row in rows)
        tokens = sum(p.share.num_tokens for p in pending) * self.context.layout.num_data_ranks
        self._say(Progress("training", rows[-1].step + 1, self.config.train.steps, losses[-1], tokens / wall_s))

    def _global_losses(self, pending: list[_Pending], loss_sums: list[float]) -> list[float]:
        """Return each step's loss over all ranks. Raises FloatingPointError on every rank when one is not finite."""
        counts = self.context.counts
        mine = [(x, p.share.num_tokens if counts else 0) for x, p in zip(loss_sums, pending, strict=True)]
        by_rank = self.context.gather(mine)
        losses = []
        for p, ranks in zip(pending, zip(*by_rank, strict=True), strict=True):
            sick = [rank for rank, (loss_sum, _) in enumerate(ranks) if not math.isfinite(loss_sum)]
            if sick:
                self.where.step = p.step
                raise FloatingPointError(
                    f"the loss is {ranks[sick[0]][0]} at step {p.step} on rank {', '.join(map(str, sick))}"
                )
            losses.append(sum(loss_sum for loss_sum, _ in ranks) / sum(tokens for _, tokens in ranks))
        return losses

    def _evaluate(self, done: int) -> None:
        """Evaluate on the same held-out samples whatever the layout, spread over the ranks."""
        assert self.held_out is not None
        self._say(Progress("evaluating", done, self.config.train.steps))
        num_samples = min(self.config.train.eval_samples, self.held_out.num_samples)
        ids = np.array_split(np.arange(num_samples), self.context.layout.num_data_ranks)[self.context.data_rank]
        assert self.config.train.micro_batch is not None
        batches = micro_batches(self.held_out, ids, self.config.train.micro_batch, 1)
        loss_sum = sum(float(self.strategy.evaluate(batch.to(self.context.device))) for batch in batches)
        num_targets = sum(batch.num_target_tokens for batch in batches)
        totals = self.context.gather((loss_sum, num_targets) if self.context.counts else (0.0, 0))
        num_tokens = sum(tokens for _, tokens in totals)
        self.log.evaluations.append(
            Evaluation(step=done, loss=sum(loss for loss, _ in totals) / num_tokens, num_tokens=num_tokens)
        )

    def _checksum(self, done: int) -> None:
        """Compare the weights across replicas; a difference is said at once and kept for the result."""
        by_rank = self.context.gather(weights_checksum(self.strategy.full_parameters()))
        self.log.checksums.append(Checksum(step=done, by_rank=by_rank))
        if len(set(by_rank)) > 1 and done % period_of(self.config) == 0:  # between averages they may
            self._say(Progress("training", done, self.config.train.steps, note="WARNING: the replicas' weights differ"))


def _value(norm: torch.Tensor | None) -> float | None:
    """Return a norm, or None where there is none: fp16 that overflowed has skipped its step."""
    return float(norm) if norm is not None and torch.isfinite(norm) else None
