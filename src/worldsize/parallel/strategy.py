"""What every strategy offers: one technique, which knows nothing of the model but its description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from worldsize.config.schema import Config
from worldsize.parallel.layout import Layout
from worldsize.records import CollectiveCount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from worldsize.data.batch import Batch
    from worldsize.measure.clock import StepClock
    from worldsize.measure.pipeline_log import Replayed
    from worldsize.models.cost import ModelDescription
    from worldsize.parallel.context import RankContext


@dataclass
class StepOutput:
    """What one optimizer step leaves behind, still on the device: nothing here forces a synchronisation."""

    loss_sum: Tensor
    """Sum of the loss over this rank's target tokens, a scalar on the rank's device."""
    grad_norm: Tensor | None
    """Norm of the whole gradient before clipping, a scalar on the rank's device; None where it is not computed."""
    local_grad_norm: Tensor | None = None
    """Norm of the mean gradient over this rank's own samples, before any exchange; None where ranks do not hold one."""


class Strategy(Protocol):
    """One technique, one file. `legal` and `communication` need no torch and no process group."""

    name: ClassVar[str]
    can_skip_exchange: ClassVar[bool]
    """Whether `step(exchange=False)` can be asked: not where forward itself needs what other ranks hold."""
    same_maths: ClassVar[bool]
    """Whether it trains as one device would, up to rounding: else its speed says little without the loss beside it."""

    whole_forward: ClassVar[bool]
    """Whether each rank runs the model's forward as one whole: then the model may be anyone's. Else it is cut."""

    @staticmethod
    def legal(config: Config, layout: Layout) -> list[str]:
        """Return the reasons why this layout cannot run, or none. Asked before anything is launched."""
        ...

    @staticmethod
    def communication(config: Config, layout: Layout, model: ModelDescription) -> list[CollectiveCount]:
        """Return the collectives that one optimizer step issues on one rank, from the model's description alone."""
        ...

    def prepare(self, model: nn.Module, config: Config, context: RankContext) -> None:
        """Make the model, on `context.device`, the distributed and steppable thing. Called on every rank."""
        ...

    def step(
        self, micro_batches: Sequence[Batch], learning_rate: float, clock: StepClock, *, exchange: bool = True
    ) -> StepOutput:
        """Forward, backward, gradient exchange, clip and update; marks its phases on `clock`. Called on every rank.

        `exchange=False` leaves the gradient exchange out: it measures what the exchange costs, and the replicas part.
        """
        ...

    def evaluate(self, batch: Batch) -> Tensor:
        """Return the sum of the loss over one micro batch's target tokens, without gradients."""
        ...

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits of one micro batch, without gradients, in fp32: what a classifier's evaluation needs.

        Called on every rank, and whole on each; over a vocabulary that tp ranks share, each has its own columns.
        """
        ...

    def held_bytes(self) -> int:
        """Return the bytes of weights and of the optimizer's state that this rank keeps between steps."""
        ...

    def settled(self, config: Config) -> Config:
        """Return the config with what `prepare` measured and chose: the one whose `communication` is this run's."""
        ...

    def replayed(self, num_steps: int) -> Replayed | None:
        """Return what the latest steps say of a pipeline's bubble; None where none was noted. Called on every rank."""
        ...

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter's name and its whole tensor, in an order that all ranks share.

        A collective where ranks hold shards: every rank goes through all of it. One tensor at a time is held whole.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return model, optimizer and scaler state under names that do not depend on the layout.

        Nested mappings of tensors and numbers; what is neither is not kept in checkpoints, since the config says it
        again. Sharded tensors are DTensors; a rank may hold some of the names only. Called on every rank.
        """
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned, with other values: its own tensors, or others like them.

        Called on every rank, after a step, so that all that a step sets up lazily is there.
        """
        ...
