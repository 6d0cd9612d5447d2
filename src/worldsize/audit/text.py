"""How figures are written in an audit: as published numbers are, so that a reader finds them again."""

from __future__ import annotations

from worldsize.audit.records import Row
from worldsize.scaling.wording import time_text

RATES = {"tokens_per_s": "tokens/s", "samples_per_s": "samples/s", "throughput": "(unit not told)"}


def seconds_text(seconds: float) -> str:
    """Write seconds with two decimals, shorter times with three figures: '1384.64 s', '52.0 ms'."""
    return f"{seconds:.2f} s" if seconds >= 1 else time_text(seconds)


def rate_text(value: float, column: str) -> str:
    """Write a rate with its unit: '12,914.9 tokens/s', '44,854 tokens/s'."""
    digits = 1 if value < 1000 or (value < 20_000 and value != round(value)) else 0
    return f"{value:,.{digits}f} {RATES[column]}"


def value_text(value: float, quantity: str) -> str:
    """Write the compared quantity with its unit."""
    return rate_text(value, quantity) if quantity in RATES else seconds_text(value)


def times_text(ratio: float) -> str:
    return f"{ratio:.2f}x"


def row_name(row: Row) -> str:
    """Return how a row is called in a sentence: '4 devices (run ddp)', or where it is written."""
    if row.devices is None:
        return row.run or row.where
    number = "1 device" if row.devices == 1 else f"{row.devices} devices"
    return f"{number} ({row.run})" if row.run else number
