"""What the parts of a run share on one rank."""

from __future__ import annotations

from dataclasses import dataclass

from worldsize.config.schema import Config
from worldsize.launch.progress import OnProgress
from worldsize.measure.clock import StepClock
from worldsize.parallel.context import RankContext
from worldsize.parallel.strategy import Strategy
from worldsize.train.feed import Feed


@dataclass
class Where:
    """How far this rank has come, for the message when it fails, and whether it is to stop there."""

    stage: str = "starting"
    step: int = 0
    asked_to_leave: bool = False
    """SIGUSR1 came: a cluster is about to take the machine away."""


@dataclass(frozen=True)
class Running:
    """A prepared run on one rank: ready to step."""

    config: Config
    context: RankContext
    strategy: Strategy
    feed: Feed
    clock: StepClock
    say: OnProgress
    where: Where
