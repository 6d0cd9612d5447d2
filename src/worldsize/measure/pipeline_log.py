"""What a pipeline's ranks computed in each step, and why they did not compute in the rest of it.

A rank notes the start and end of each action (one stage's forward or backward of one micro batch). Between its
actions it waits: as long as the rank that it waits for still computes, or waits itself, that is bubble; from the
moment at which the other is done it is exposed communication (transfer, and the messages' own overhead). To tell the
two apart ranks hand each other their notes when a window closes, never within a step. Notes are in seconds of the
host's monotonic clock, which all processes of one host share; ranks on several hosts are brought together by their
hosts' wall clocks, so that the parting is as good as these agree, while the sum of the two is not touched.
"""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from worldsize.parallel.schedule import Action, Simulated, ideal_share, input_of, simulate
from worldsize.parallel.stages import Stages

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

    from worldsize.measure.clock import StepTimes

KEPT_STEPS = 50
"""Steps whose actions are kept for the replay."""


@dataclass(frozen=True)
class Done:
    """An action carried out, seconds."""

    action: Action
    start_s: float
    end_s: float


@dataclass
class StepNotes:
    """One rank's step, in readings of its stopwatch (floats on a CPU, events on CUDA) until the window closes."""

    log: PipelineLog
    began: Any = None
    ended: Any = None
    actions: list[tuple[Action, Any, Any]] = field(default_factory=list)
    talks: list[tuple[Any, Any]] = field(default_factory=list)
    """Collectives within actions, among the ranks that share a stage."""
    waits: list[tuple[Any, Any]] = field(default_factory=list)
    """Exchanges with other stages after the schedule, which end when the slowest of them has come."""
    _talk_began: Any = None

    def begin(self) -> None:
        """Say that the schedule starts."""
        self.began = self.log.now()

    def end(self) -> None:
        """Say that the schedule, with all its messages, is through."""
        self.ended = self.log.now()

    def mark(self, phase: str) -> None:
        """Take the marks that a tensor-parallel axis sets around its collectives, in place of the step's clock."""
        now = self.log.now()
        if phase == "exposed_communication_s":
            self.talks.append((self._talk_began, now))
        self._talk_began = now

    def extend(self) -> None:
        """Move the last action's end to now."""
        action, start, _ = self.actions[-1]
        self.actions[-1] = (action, start, self.log.now())


@dataclass(frozen=True)
class RankStep:
    """One rank's step, seconds of a clock that all ranks share."""

    began_s: float
    ended_s: float
    actions: tuple[Done, ...]
    talks_s: float
    """Time within actions in which ranks that share a stage exchange activations."""
    waits_s: tuple[tuple[float, float], ...]
    """Exchanges with other stages after the schedule."""

    @property
    def active_s(self) -> float:
        """Time within actions."""
        return sum(done.end_s - done.start_s for done in self.actions)

    @property
    def computed_s(self) -> float:
        """When the last action was done."""
        return self.actions[-1].end_s

    @property
    def after_s(self) -> float:
        """Own work between the schedule and the first exchange with other stages; 0 where there is no exchange."""
        return self.waits_s[0][0] - self.ended_s if self.waits_s else 0.0


class PipelineLog:
    """Notes of one rank; gathers those of its pipeline when a window closes."""

    def __init__(self, device: torch.device, stages: Stages, pp_rank: int, group: ProcessGroup) -> None:
        self.stages = stages
        self.steps: deque[dict[int, RankStep]] = deque(maxlen=KEPT_STEPS)
        """The latest steps, by pipeline rank."""
        self._device = device
        self._pp_rank = pp_rank
        self._group = group

    def new_step(self) -> StepNotes:
        """Return empty notes for a step of this rank."""
        return StepNotes(self)

    def now(self) -> Any:
        """Return a reading: the wall clock, or on CUDA an event on the compute stream."""
        if self._device.type != "cuda":
            return time.perf_counter()
        import torch

        from worldsize.measure.clock import cuda_event

        event = cuda_event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def settle(self, steps: Sequence[StepTimes]) -> None:
        """Part the schedule's time of each step into compute, bubble and exposed communication. On every rank."""
        noted = [step for step in steps if step.notes is not None]
        by_rank = self._gather(self._resolved([step.notes for step in noted if step.notes is not None]))
        for index, step in enumerate(noted):
            ranks = {rank: theirs[index] for rank, theirs in enumerate(by_rank)}
            part(step.phases_s, ranks, self._pp_rank, self.stages)
            self.steps.append(ranks)

    def _resolved(self, notes: Iterable[StepNotes]) -> list[RankStep]:
        seconds = self._to_seconds()
        return [
            RankStep(
                began_s=seconds(each.began),
                ended_s=seconds(each.ended),
                actions=tuple(Done(action, seconds(start), seconds(end)) for action, start, end in each.actions),
                talks_s=sum(seconds(end) - seconds(start) for start, end in each.talks),
                waits_s=tuple((seconds(start), seconds(end)) for start, end in each.waits),
            )
            for each in notes
        ]

    def _to_seconds(self) -> Any:
        """Return what turns a reading into seconds of the host's monotonic clock. Synchronises a CUDA device."""
        if self._device.type != "cuda":
            return lambda reading: reading
        import torch

        anchor = self.now()
        torch.cuda.synchronize(self._device)
        now_s = time.perf_counter()
        return lambda reading: now_s - reading.elapsed_time(anchor) / 1e3

    def _gather(self, mine: list[RankStep]) -> list[list[RankStep]]:
        import torch.distributed as dist

        gathered: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(gathered, (platform.node(), time.time() - time.perf_counter(), mine), group=self._group)
        hosts = {host for host, _, _ in gathered}
        return [
            [_shifted(step, offset_s if len(hosts) > 1 else 0.0) for step in steps] for _, offset_s, steps in gathered
        ]

    def replays(self, num_steps: int) -> list[Simulated]:
        """Return the latest steps replayed: the schedule as carried out, with each step's own times of its actions."""
        steps = list(self.steps)[-num_steps:]
        message_s = self._messages_s(steps)
        return [self._replay(ranks, message_s) for ranks in steps]

    def _replay(self, ranks: Mapping[int, RankStep], message_s: Mapping[Action, float]) -> Simulated:
        orders = {rank: [done.action for done in step.actions] for rank, step in ranks.items()}
        duration_s = {done.action: done.end_s - done.start_s for step in ranks.values() for done in step.actions}
        after_s = {rank: step.after_s for rank, step in ranks.items()}
        return simulate(orders, self.stages.num_stages, duration_s, message_s, after_s)

    def _messages_s(self, steps: Iterable[Mapping[int, RankStep]]) -> dict[Action, float]:
        """Return how long the messages before each action kept it from beginning: means over steps.

        Not medians: of many messages each is late but seldom, and still most steps have a late one. Means add up.
        """
        waited: dict[Action, list[float]] = {}
        for ranks in steps:
            for rank in ranks:
                for done, _, there_s in begun(ranks, rank, self.stages):
                    waited.setdefault(done.action, []).append(max(0.0, done.start_s - there_s))
        return {action: mean(each) for action, each in waited.items()}


def part(phases_s: dict[str, float], ranks: Mapping[int, RankStep], pp_rank: int, stages: Stages) -> None:
    """Part one rank's step in place; it comes with the whole schedule booked as bubble, and what follows as it was."""
    mine = ranks[pp_rank]
    scheduled_s = phases_s["bubble_s"]
    active_s = min(mine.active_s, scheduled_s)  # two readings of one moment may differ on CUDA
    talks_s = min(mine.talks_s, active_s)
    within_s = min(bubble_within_s(ranks, pp_rank, stages), scheduled_s - active_s)
    after_s = min(bubble_after_s(ranks, pp_rank), phases_s["exposed_communication_s"])
    phases_s["compute_s"] += active_s - talks_s
    phases_s["bubble_s"] = within_s + after_s
    phases_s["exposed_communication_s"] += scheduled_s - active_s + talks_s - within_s - after_s


def begun(ranks: Mapping[int, RankStep], pp_rank: int, stages: Stages) -> Iterator[tuple[Done, float, float]]:
    """Yield a rank's actions, each with when the rank was free for it, and when it was and all had been computed."""
    ended_s = {done.action: done.end_s for step in ranks.values() for done in step.actions}
    free_s = ranks[pp_rank].began_s
    for done in ranks[pp_rank].actions:
        arrivals = [ended_s[each] for each in input_of(done.action, stages) if each in ended_s]
        yield done, free_s, max([free_s, *arrivals])
        free_s = done.end_s


def bubble_within_s(ranks: Mapping[int, RankStep], pp_rank: int, stages: Stages) -> float:
    """Return how long a rank waited, within the schedule, for what another had not yet computed."""
    mine = ranks[pp_rank]
    waits = (min(done.start_s, there_s) - free_s for done, free_s, there_s in begun(ranks, pp_rank, stages))
    return sum(max(0.0, wait_s) for wait_s in waits) + _waited_s((mine.computed_s, mine.ended_s), ranks)


def bubble_after_s(ranks: Mapping[int, RankStep], pp_rank: int) -> float:
    """Return how long a rank waited, in exchanges after the schedule, for a stage that still computed."""
    return sum(_waited_s(wait, ranks) for wait in ranks[pp_rank].waits_s)


def _waited_s(wait: tuple[float, float], ranks: Mapping[int, RankStep]) -> float:
    """Return the part of an interval in which some rank of the pipeline had still to compute."""
    last_s = max(step.computed_s for step in ranks.values())
    return max(0.0, min(wait[1], last_s) - wait[0])


def _shifted(step: RankStep, by_s: float) -> RankStep:
    if by_s == 0.0:
        return step
    return replace(
        step,
        began_s=step.began_s + by_s,
        ended_s=step.ended_s + by_s,
        actions=tuple(Done(done.action, done.start_s + by_s, done.end_s + by_s) for done in step.actions),
        waits_s=tuple((start_s + by_s, end_s + by_s) for start_s, end_s in step.waits_s),
    )


@dataclass(frozen=True)
class Replayed:
    """What one pipeline's log says of its bubble: the observed one is in the steps' phases."""

    schedule: str
    num_micro_batches: int
    stage_layers: tuple[int, ...]
    ideal_share: float
    simulated_s: float
    simulated_share: float


def replayed(log: PipelineLog, schedule: str, num_micro_batches: int, num_steps: int) -> Replayed | None:
    """Return ideal and simulated bubble of the latest steps, mean over ranks; None where no step was noted."""
    replays = log.replays(num_steps)
    if not replays:
        return None
    stages = log.stages
    a_rank = stages.num_stages // stages.num_ranks
    idle_s = [mean(replay.idle_s) for replay in replays]
    busy_s = [mean(replay.busy_s) for replay in replays]
    ideal = ideal_share(schedule, num_micro_batches, stages.num_ranks, a_rank)
    share = sum(idle_s) / (sum(idle_s) + sum(busy_s))
    return Replayed(schedule, num_micro_batches, stages.num_blocks, ideal, median(idle_s), share)
