"""Energy of a host's devices from hardware counters, joules. Where no counter can be read there is no number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

RAPL = Path("/sys/class/powercap")


class EnergyMeter:
    """Energy between `start` and `stop` on this host: NVML's counter for a GPU, RAPL's package counters for CPUs.

    RAPL counts the whole package, whatever else runs on it, so one rank a host counts it (`counts_host`) and the
    others add nothing. `joules` is None where there is no counter, and `absent_because` says why.
    """

    def __init__(self, device: torch.device, *, counts_host: bool, rapl: Path = RAPL) -> None:
        self.joules: float | None = None
        self.absent_because: str | None = None
        self._counts = counts_host or device.type == "cuda"
        self._read: Callable[[], list[tuple[float, float]]] | None = None
        try:
            self._read = _nvml_reader(device) if device.type == "cuda" else _rapl_reader(rapl)
        except (OSError, ImportError, ValueError) as error:
            self.absent_because = str(error)

    def forget(self, because: str) -> None:
        """Have no figure after all."""
        self.joules, self.absent_because = None, because

    def start(self) -> None:
        self._before = self._read() if self._read else []

    def stop(self) -> None:
        """Keep the joules since `start` in `joules`."""
        if self._read is None:
            return
        after = self._read()
        # A counter that ran over its range since `start` is smaller now; its range is added once.
        spent_j = sum(
            now - then + (wrap_j if now < then else 0.0)
            for (now, wrap_j), (then, _) in zip(after, self._before, strict=True)
        )
        self.joules = spent_j if self._counts else 0.0


def _rapl_reader(root: Path) -> Callable[[], list[tuple[float, float]]]:
    packages = [zone for zone in sorted(root.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    if not packages:
        raise OSError(f"this CPU shows no energy counter under {root}")
    ranges_j = [int((zone / "max_energy_range_uj").read_text()) / 1e6 for zone in packages]

    def read() -> list[tuple[float, float]]:
        return [
            (int((zone / "energy_uj").read_text()) / 1e6, wrap_j)
            for zone, wrap_j in zip(packages, ranges_j, strict=True)
        ]

    read()  # unreadable without rights: said now, not in the middle of a run
    return read


def _nvml_reader(device: torch.device) -> Callable[[], list[tuple[float, float]]]:
    try:
        import pynvml
    except ImportError as error:
        raise ImportError("the GPU's energy counter needs the extra `gpu`: pip install 'worldsize[gpu]'") from error
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        raise OSError(f"NVML gives no energy counter: {error}") from error
    return lambda: [(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, 0.0)]
