"""Dense peak FLOP/s of known devices. Torch-free. An unknown device has none: no default, no guess."""

from __future__ import annotations

import re
from importlib.resources import files

import yaml


def peak_flop_per_s(device_name: str, precision: str) -> tuple[float | None, str]:
    """Return (peak, its source), or (None, why there is none), for a device name as torch reports it."""
    table = yaml.safe_load(files("worldsize.measure").joinpath("peaks.yaml").read_text(encoding="utf-8"))
    for row in table:
        if not re.search(row["match"], device_name.lower()):
            continue
        if precision in row:
            return float(row[precision]), row["source"]
        return None, f"{device_name} has no {precision} peak in its datasheet"
    return None, f"the dense peak of {device_name!r} is not known; mfu_vs_measured_matmul compares with a measured rate"
