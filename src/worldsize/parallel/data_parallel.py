"""What the strategies that hold a whole replica on each rank have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from worldsize.config.schema import Config
from worldsize.parallel.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

    from worldsize.data.batch import Batch
    from worldsize.measure.pipeline_log import Replayed
    from worldsize.train.replica import Replica


class HoldsReplica:
    """Hands on what a strategy's replica answers by itself; `prepare` sets it."""

    same_maths: ClassVar[bool] = True
    whole_forward: ClassVar[bool] = True
    replica: Replica

    def evaluate(self, batch: Batch) -> Tensor:
        return self.replica.evaluate(batch)

    def logits(self, batch: Batch) -> Tensor:
        """Return the model's logits of one micro batch, without gradients: what a class is read from."""
        return self.replica.logits(batch)

    def held_bytes(self) -> int:
        return self.replica.held_bytes()

    def settled(self, config: Config) -> Config:
        return config

    def replayed(self, num_steps: int) -> Replayed | None:
        return None

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        return self.replica.full_parameters()

    def state(self) -> dict[str, Any]:
        return self.replica.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.replica.load_state(state)


def dp_alone(strategy: str, layout: Layout) -> list[str]:
    """Return why a layout is not one of dp > 1 alone, with the nearest legal choice; none where it is."""
    reasons = []
    if layout.fsdp > 1:
        reasons.append(
            f"strategy {strategy!r} spreads by dp alone, but parallel.fsdp={layout.fsdp}; "
            "use parallel.strategy=fsdp, or leave parallel.fsdp unset"
        )
    reasons += [
        f"strategy {strategy!r} spreads by dp alone, but parallel.{axis}={degree}; use parallel.{axis}=1"
        for axis, degree in (("tp", layout.tp), ("pp", layout.pp))
        if degree > 1
    ]
    if layout.world_size == 1:
        reasons.append(f"strategy {strategy!r} needs at least 2 devices; use parallel.strategy=single or --nproc 2")
    return reasons
