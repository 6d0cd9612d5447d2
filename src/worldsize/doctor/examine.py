"""All checks in the order in which they are told. A check that breaks is a finding of its own. Torch-free at import."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from worldsize.doctor import hardware, network, software, storage
from worldsize.doctor.finding import Examination, Finding, warn

Check = Callable[[], list[Finding]]


def checks(out: Path) -> dict[str, Check]:
    """Return the checks by name; `out` is where runs will be written."""
    return {
        "versions": software.versions,
        "backends": software.backends,
        "devices": hardware.devices,
        "cores": hardware.cores,
        "clocks": hardware.clocks,
        "interconnect": hardware.interconnect,
        "network": network.interfaces,
        "names": network.names,
        "ports": network.ports,
        "time": network.time_sync,
        "shared memory": storage.shared_memory,
        "file system": lambda: storage.file_system(out),
        "emulated hosts": network.emulation,
    }


def examine(out: Path) -> Examination:
    """Run every check on this machine."""
    return Examination(findings=list(_findings(checks(out))))


def _findings(all_checks: dict[str, Check]) -> Iterator[Finding]:
    for name, check in all_checks.items():
        try:
            yield from check()
        except Exception as error:  # one broken check must not hide what the others found
            yield warn(name, f"could not be checked: {type(error).__name__}: {error}.", "Please report it.")
