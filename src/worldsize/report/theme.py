"""Colours and type of every figure and of the page. Figures are drawn in the light colours; the page swaps each for
a CSS variable, so that one drawing serves light, dark and print."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl

from worldsize.records import PHASES

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Colour:
    """One role in light and in dark. No two roles share a light colour: it is what the page looks the role up by."""

    light: str
    dark: str


COLOURS = {
    "paper": Colour("#fdfcfa", "#16181b"),
    "ink": Colour("#1c1f23", "#e7e4de"),
    "muted": Colour("#626a73", "#a2a8af"),
    "rule": Colour("#c8ccd1", "#4a5058"),
    "faint": Colour("#e6e8ea", "#2b2f34"),
    "on-fill": Colour("#ffffff", "#ffffff"),
    "ink-on-fill": Colour("#101214", "#101214"),
    # phases: hues a reader with any colour vision can tell apart beside each other; exposed communication burns
    "phase-data_wait_s": Colour("#8f5a9e", "#a873b8"),
    "phase-host_to_device_s": Colour("#d8a9cf", "#d3a6cb"),
    "phase-compute_s": Colour("#3d6b9c", "#4f7fb3"),
    "phase-exposed_communication_s": Colour("#d9480f", "#ea5f23"),
    "phase-bubble_s": Colour("#e5bd3a", "#dcb840"),
    "phase-optimizer_s": Colour("#4a9c88", "#5aa996"),
    "phase-other_s": Colour("#bfc4ca", "#6b727a"),
    # series: Okabe & Ito, Color Universal Design (2008), without the vermilion that is exposed communication's
    "series-1": Colour("#0072b2", "#4ba3dc"),
    "series-2": Colour("#b97f00", "#e6a41c"),
    "series-3": Colour("#009e73", "#25b88e"),
    "series-4": Colour("#cc79a7", "#d98db8"),
    "series-5": Colour("#56b4e9", "#8ccbf2"),
    "series-6": Colour("#7a5c3e", "#b8977a"),
    # two more that stand apart from them: Tol, Colour Schemes (2021), muted
    "series-7": Colour("#332288", "#9487dc"),
    "series-8": Colour("#999933", "#c4c35c"),
}

NUM_SERIES = 8
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES: tuple[tuple[float, tuple[float, ...]], ...] = ((0, ()), (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))

PHASE_NAMES = {
    "data_wait_s": "data wait",
    "host_to_device_s": "host to device",
    "compute_s": "compute",
    "exposed_communication_s": "exposed communication",
    "bubble_s": "bubble",
    "optimizer_s": "optimizer",
    "other_s": "other",
}
"""What the phases are called in text for people."""

DARK_LETTERED_PHASES = {"host_to_device_s", "bubble_s", "optimizer_s", "other_s"}
"""Phases whose fill is so light that a number on it is set in dark letters, in both themes."""

_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["rule"].light,
    "axes.labelcolor": COLOURS["muted"].light,
    "axes.facecolor": "none",
    "figure.facecolor": COLOURS["paper"].light,
    "text.color": COLOURS["ink"].light,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "xtick.color": COLOURS["rule"].light,
    "xtick.labelcolor": COLOURS["muted"].light,
    "xtick.labelsize": 8,
    "xtick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.color": COLOURS["rule"].light,
    "ytick.labelcolor": COLOURS["muted"].light,
    "ytick.labelsize": 8,
    "ytick.major.width": 0.6,
    "ytick.major.size": 3,
    "grid.color": COLOURS["faint"].light,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "worldsize",
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
}


def light(role: str) -> str:
    """Return the colour that figures draw `role` in."""
    return COLOURS[role].light


def phase_colour(phase: str) -> str:
    """Return the colour of a phase: the same in every figure. An unknown phase is drawn as 'other'."""
    return light(f"phase-{phase}" if phase in PHASES else "phase-other_s")


def series_colour(index: int) -> str:
    """Return the colour of the `index`-th series; they come round again after NUM_SERIES, markers do not."""
    return light(f"series-{index % NUM_SERIES + 1}")


def style() -> AbstractContextManager[None]:
    """Return matplotlib settings that hold inside a `with`, whatever the user's own matplotlibrc says."""
    defaults: dict[Any, Any] = dict(mpl.rcParamsDefault)
    defaults.pop("backend", None)  # asking for it would load one
    return mpl.rc_context(defaults | _RC)


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Run a drawing function under `style()`."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> T:
        with style():
            return draw(*args, **kwargs)

    return inner


def css_variables(theme: str) -> str:
    """Return the CSS declarations of every colour for 'light' or 'dark'."""
    return " ".join(f"--{role}: {getattr(colour, theme)};" for role, colour in COLOURS.items())
