"""Rates of a link as people and `tc` write them: '1gbit', '100mbit', '2.5gbit'. Torch-free."""

from __future__ import annotations

import re

from worldsize.errors import UserError

BIT_PER_S = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
LEAST_BIT_PER_S, MOST_BIT_PER_S = 1e5, 1e12


def parse_rate(text: str) -> float:
    """Return a rate in bit/s. Raises UserError on what is no rate; bytes per second must not pass for bits."""
    found = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([kmg]bit)(?:/s|ps)?\s*", text.lower())
    if not found:
        raise UserError(f"{text!r} is no link rate. Type a number and kbit, mbit or gbit (per second), e.g. 1gbit.")
    bit_per_s = float(found[1]) * BIT_PER_S[found[2]]
    if not LEAST_BIT_PER_S <= bit_per_s <= MOST_BIT_PER_S:
        raise UserError(f"a link of {text!r} is outside of what can be emulated: 100kbit to 1000gbit.")
    return bit_per_s


def rate_text(bit_per_s: float) -> str:
    """Write a rate with three figures: '1 Gbit/s', '953 Mbit/s'."""
    for name, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6)):
        if bit_per_s >= 0.9995 * size:
            return f"{bit_per_s / size:.3g} {name}"
    return f"{bit_per_s / 1e3:.3g} kbit/s"
