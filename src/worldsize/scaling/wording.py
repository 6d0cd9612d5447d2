"""How figures are written for people: one way each, for verdicts and tables."""

from __future__ import annotations

from worldsize.records import Measured


def time_text(seconds: float) -> str:
    """Write a duration with three figures or so: '12.3 ms', '1.23 s', '45 µs'."""
    size = abs(seconds)
    if size >= 10:
        return f"{seconds:.1f} s"
    if size >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms" if size >= 1e-4 else f"{seconds * 1e6:.0f} µs"


def long_time_text(seconds: float) -> str:
    """Write a waiting time: '50 s', '3 min 20 s', '1 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def time_interval(measured: Measured) -> str:
    """Write a measured duration with its interval: '12.3 ms (12.1-12.5)'."""
    scale = 1.0 if measured.median >= 1 else 1e3
    digits = 2 if scale == 1.0 else 1
    return f"{time_text(measured.median)} ({measured.low * scale:.{digits}f}-{measured.high * scale:.{digits}f})"


def ratio_interval(measured: Measured) -> str:
    """Write a ratio's interval: '95 % interval 1.69-1.75'."""
    return f"95 % interval {measured.low:.2f}-{measured.high:.2f}"


def percent(fraction: float) -> str:
    return f"{fraction * 100:.0f} %"


def devices(num_devices: int) -> str:
    return "1 device" if num_devices == 1 else f"{num_devices} devices"
