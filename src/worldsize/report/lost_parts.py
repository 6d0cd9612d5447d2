"""The parts of lost time in reading order, with names for people. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from worldsize.study.records import LostTime

NAMES = {
    "exposed_communication_s": ("exposed communication", "exposed_communication_s"),
    "waiting_s": ("waiting for the slowest", "exposed_communication_s"),
    "transfer_s": ("transfer", "exposed_communication_s"),
    "compute_excess_s": ("compute excess", "compute_s"),
    "optimizer_s": ("optimizer", "optimizer_s"),
    "data_s": ("data", "data_wait_s"),
    "bubble_s": ("bubble", "bubble_s"),
    "other_s": ("other", "other_s"),
}
"""Key of a part → what it is called, and the phase whose colour it has."""


@dataclass(frozen=True)
class Part:
    """One part of the time lost; below zero it was won back."""

    name: str
    phase: str
    seconds: float


def parts(lost: LostTime) -> list[Part]:
    """Return the parts that are not zero. Where waiting and transfer are known they stand for their sum."""
    split = {"waiting_s", "transfer_s"} <= set(lost.parts_s)
    found = []
    for key in [*NAMES, *sorted(set(lost.parts_s) - set(NAMES))]:
        seconds = lost.parts_s.get(key, 0.0)
        if seconds and not (split and key == "exposed_communication_s"):
            name, phase = NAMES.get(key, (key.removesuffix("_s").replace("_", " "), "other_s"))
            found.append(Part(name, phase, seconds))
    return found
