"""The training loop of one rank: steps between windows, and at each window's edge the only synchronisation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from worldsize.data.batch import Samples
from worldsize.data.sampler import digest
from worldsize.errors import RunError
from worldsize.launch.progress import Progress
from worldsize.measure import memory
from worldsize.parallel.local_sgd import period_of
from worldsize.parallel.strategy import StepOutput
from worldsize.records import Checksum, StepRow
from worldsize.train.checkpoint import LOG, ROWS, Checkpoints, as_json, as_tensor
from worldsize.train.checksum import weights_checksum
from worldsize.train.evaluation import evaluate
from worldsize.train.feed import Share
from worldsize.train.log import TrainLog
from worldsize.train.optimizer import learning_rate
from worldsize.train.running import Running


@dataclass
class _Pending:
    """A step whose numbers are still on the device."""

    step: int
    share: Share
    output: StepOutput
    learning_rate: float
    began_s: float


class Trainer:
    """Holds what the loop's parts share. Every method is called on every rank."""

    def __init__(
        self,
        running: Running,
        held_out: Samples | None,
        on_rows: Callable[[list[StepRow], list[float]], None],
        checkpoints: Callable[[], Checkpoints] | None = None,
        rows_so_far: Callable[[], bytes] = bytes,
        log: TrainLog | None = None,
    ) -> None:
        """`log` is that of the steps done before, when a run goes on; `rows_so_far` reads back what `on_rows` wrote.

        `checkpoints` opens the run's checkpoints, called at most once: at the start, or when the run is asked to leave.
        """
        self.config = running.config
        self.context = running.context
        self.strategy = running.strategy
        self.feed = running.feed
        self.clock = running.clock
        self.where = running.where
        self.held_out = held_out
        self._running = running
        self.log = log or TrainLog()
        self._first_step = len(self.log.rows)
        self._open_checkpoints = checkpoints
        self._checkpoints: Checkpoints | None = None
        self._rows_so_far = rows_so_far
        self._leaves = False
        self._say = running.say
        self._on_rows = on_rows
        self._pending: list[_Pending] = []

    def train(self) -> TrainLog:
        """Run all steps that are left, with the evaluations, checksums and checkpoints of the config."""
        self.where.stage = "training"
        num_steps = self.config.train.steps
        if self.config.checkpoint.every_steps is not None:
            self._open()
        if self._first_step == 0:
            self._checksum(0)
        self._began_s = time.perf_counter() - self.log.wall_s
        for step in range(self._first_step, num_steps):
            self.where.step = step
            self._pending.append(self._timed_step(step))
            done = step + 1
            evaluates = self._evaluates_after(done)
            checks = done % self.config.train.checksum_every_steps == 0 or done == num_steps
            saves = self._checkpoints is not None and self._checkpoints.is_due(done)
            if done % self.config.measure.window_steps == 0 or evaluates or checks or saves:
                self._close_window()
            if evaluates:
                self._evaluate(done)
            if checks:
                self._checksum(done)
            if saves:
                self._save(done)
            if self._leaves and done < num_steps:
                self._leave(done, saved=saves)
        self.log.wall_s = time.perf_counter() - self._began_s
        if self._checkpoints is not None:
            self._checkpoints.wait()
        return self.log

    @property
    def _num_warmup_steps(self) -> int:
        """The steps after a start that are tagged as warm-up: a process that goes on has to warm up again."""
        warmup = self.config.measure.warmup_steps
        if self._first_step == 0:
            return warmup
        return min(warmup, (self.config.train.steps - self._first_step) // 2)

    def _open(self) -> None:
        if self._open_checkpoints is not None and self._checkpoints is None:
            self._checkpoints = self._open_checkpoints()
            self._checkpoints.saves = self.log.checkpoints

    def _leave(self, done: int, *, saved: bool) -> None:
        """Save, if that was not just done, and end the run. Raises RunError on every rank once all is on the disk."""
        self._open()
        if self._checkpoints is not None:
            if not saved:
                self._save(done)
            self._checkpoints.wait()
        self.context.barrier()  # a rank that ends early would have its launcher end the others in mid-save
        raise RunError(
            f"the run was asked to leave (SIGUSR1) and saved a checkpoint after step {done}. Run the same command with "
            "--resume to go on from there."
        )

    def _save(self, done: int) -> None:
        """Begin a checkpoint of all that the steps done so far have left, on every rank."""
        assert self._checkpoints is not None
        self._checkpoints.wait()  # so that the log holds what the save before cost
        self.log.wall_s = time.perf_counter() - self._began_s
        rank, last = self.context.rank, self.log.evaluations[-1:]
        extra = {f"{LOG}/{rank}": as_json(self.log.as_json()), f"{ROWS}/{rank}": as_tensor(self._rows_so_far())}
        self._checkpoints.save(done, extra, next((e.loss for e in last if e.step == done), None))

    def _evaluates_after(self, done: int) -> bool:
        every = self.config.train.eval_every_steps
        return self.held_out is not None and (
            done == self.config.train.steps or (every is not None and done % every == 0)
        )

    def _timed_step(self, step: int) -> _Pending:
        train = self.config.train
        rate = learning_rate(self.config.optimizer, step, train.steps)
        began_s = time.perf_counter()
        self.clock.start()
        share = self.feed.share(step)
        self.clock.mark("data_wait_s")
        if self.context.device.type != "cpu":
            share = share.to(self.context.device)
            self.clock.mark("host_to_device_s")
        output = self.strategy.step(share.micro_batches, rate, self.clock)
        self.clock.stop()
        return _Pending(step, share, output, rate, began_s)

    def _close_window(self) -> None:
        """Synchronise, turn the window's steps into rows, check the loss, tell people."""
        times = self.clock.window()
        pending, self._pending = self._pending, []
        counts = self.context.counts
        loss_sums = [x if counts else 0.0 for x in torch.stack([p.output.loss_sum for p in pending]).tolist()]
        losses = self._global_losses(pending, loss_sums)
        memory_bytes = memory.used_bytes(self.context.device)
        beside = self._checkpoints.num_beside([p.began_s for p in pending]) if self._checkpoints else 0
        rows = [
            StepRow(
                step=p.step,
                warmup=p.step < self._first_step + self._num_warmup_steps,
                saving=index < beside,
                wall_s=t.wall_s,
                phases_s=t.phases_s,
                num_samples=len(p.share.sample_ids) if counts else 0,
                num_tokens=p.share.num_tokens if counts else 0,
                num_targets=p.share.num_targets if counts else 0,
                loss_sum=loss_sum,
                grad_norm=_value(p.output.grad_norm),
                local_grad_norm=_value(p.output.local_grad_norm),
                learning_rate=p.learning_rate,
                memory_bytes=memory_bytes,
            )
            for index, (p, t, loss_sum) in enumerate(zip(pending, times, loss_sums, strict=True))
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
        mine = [(x, p.share.num_targets if counts else 0) for x, p in zip(loss_sums, pending, strict=True)]
        answers = self.context.gather((self.where.asked_to_leave, mine))
        self._leaves = any(asked for asked, _ in answers)
        by_rank = [theirs for _, theirs in answers]
        losses = []
        for p, ranks in zip(pending, zip(*by_rank, strict=True), strict=True):
            sick = [rank for rank, (loss_sum, _) in enumerate(ranks) if not math.isfinite(loss_sum)]
            if sick:
                self.where.step = p.step
                raise FloatingPointError(
                    f"the loss is {ranks[sick[0]][0]} at step {p.step} on rank {', '.join(map(str, sick))}"
                )
            losses.append(sum(loss_sum for loss_sum, _ in ranks) / sum(targets for _, targets in ranks))
        return losses

    def _evaluate(self, done: int) -> None:
        """Evaluate on the same held-out samples whatever the layout, spread over the ranks."""
        assert self.held_out is not None
        self._say(Progress("evaluating", done, self.config.train.steps))
        self.log.evaluations.append(evaluate(self._running, self.held_out, done))

    def _checksum(self, done: int) -> None:
        """Compare the weights across replicas; a difference is said at once and kept for the result."""
        by_rank = self.context.gather(weights_checksum(self.strategy.full_parameters()))
        self.log.checksums.append(Checksum(step=done, by_rank=by_rank))
        if len(set(by_rank)) > 1 and done % period_of(self.config) == 0:  # between averages they may
            self._say(Progress("training", done, self.config.train.steps, note="WARNING: the replicas' weights differ"))


def _value(norm: torch.Tensor | None) -> float | None:
    """Return a norm, or None where there is none: fp16 that overflowed has skipped its step."""
    return float(norm) if norm is not None and torch.isfinite(norm) else None
