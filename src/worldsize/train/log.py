"""What the training loop leaves behind on one rank, and its form in a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from worldsize.measure import summary
from worldsize.records import CheckpointSave, Checksum, Evaluation, StepRow


@dataclass
class TrainLog:
    """What the loop leaves behind on one rank."""

    rows: list[StepRow] = field(default_factory=list)
    contention_s: list[float] = field(default_factory=list)
    samples_digest: int = 0
    prescribed_digest: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    checksums: list[Checksum] = field(default_factory=list)
    checkpoints: list[CheckpointSave] = field(default_factory=list)
    resumed_after: list[int] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def timed_contention_s(self) -> list[float]:
        """Contention of the steps that count."""
        return [c for c, counted in zip(self.contention_s, summary.counts(self.rows), strict=True) if counted]

    def as_json(self) -> dict[str, Any]:
        """Return all but the rows, which are in the rank's own file, as plain data."""
        return {
            "contention_s": self.contention_s,
            "samples_digest": f"{self.samples_digest:x}",
            "prescribed_digest": f"{self.prescribed_digest:x}",
            "evaluations": [evaluation.model_dump() for evaluation in self.evaluations],
            "checksums": [checksum.model_dump() for checksum in self.checksums],
            "checkpoints": [save.model_dump() for save in self.checkpoints],
            "resumed_after": self.resumed_after,
            "wall_s": self.wall_s,
        }

    @staticmethod
    def from_json(data: dict[str, Any], rows: list[StepRow]) -> TrainLog:
        """Return the log that `as_json` was made of, with its rows."""
        return TrainLog(
            rows=rows,
            contention_s=data["contention_s"],
            samples_digest=int(data["samples_digest"], 16),
            prescribed_digest=int(data["prescribed_digest"], 16),
            evaluations=[Evaluation.model_validate(evaluation) for evaluation in data["evaluations"]],
            checksums=[Checksum.model_validate(checksum) for checksum in data["checksums"]],
            checkpoints=[CheckpointSave.model_validate(save) for save in data["checkpoints"]],
            resumed_after=data["resumed_after"],
            wall_s=data["wall_s"],
        )
