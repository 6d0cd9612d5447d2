"""Figures of `worldsize bench`: what a method's size costs in quality, and what load does to latency."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from worldsize.bench.records import BenchResult, LoadRow
from worldsize.report import svg, theme
from worldsize.report.bench_table import load_name
from worldsize.report.figures import frame
from worldsize.report.numbers import show


@theme.styled
def quality_by_size(result: BenchResult) -> Figure:
    """One dot a method: size on disk across, quality up, with its interval."""
    axes = frame.frame(170, left_pt=48)
    axes.grid(axis="y")
    for index, row in enumerate(result.quality):
        size_mib = row.size_bytes / 2**20
        low, high = row.low if row.low is not None else row.value, row.high if row.high is not None else row.value
        colour = theme.series_colour(index)
        axes.plot([size_mib, size_mib], [low, high], color=colour, linewidth=3, alpha=0.35)
        (dot,) = axes.plot([size_mib], [row.value], marker=theme.MARKERS[index % len(theme.MARKERS)], color=colour)
        svg.tip(dot, f"{row.method}: {row.figure} {show(row.value, 4)}, {show(size_mib)} MiB")
        axes.annotate(row.method, (size_mib, row.value), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_xlim(left=0)
    axes.margins(x=0.2, y=0.2)
    axes.set_xlabel("size on disk (MiB)")
    axes.set_ylabel(", ".join(dict.fromkeys(row.figure for row in result.quality)))
    return frame.figure_of(axes)


@theme.styled
def latency_by_load(result: BenchResult) -> Figure:
    """A pair of lines a method: the median gap between tokens, and the 99th percentile, against output tokens/s."""
    methods = list(dict.fromkeys(row.method for row in result.loads))
    handles = [
        Line2D([], [], color=theme.series_colour(i), marker=theme.MARKERS[i % len(theme.MARKERS)], label=method)
        for i, method in enumerate(methods)
    ]
    muted = theme.light("muted")
    handles += [
        Line2D([], [], color=muted, label="median"),
        Line2D([], [], color=muted, dashes=(4, 2), label="99th percentile"),
    ]
    columns = 3
    axes = frame.frame(180, legend_rows=-(-len(handles) // columns), left_pt=44)
    axes.grid(axis="y")
    axes.set_yscale("log")
    for index, method in enumerate(methods):
        rows = [row for row in result.loads if row.method == method and row.serving.itl_ms]
        _lines(axes, rows, index)
    frame.legend(axes, handles, columns)
    axes.set_xlim(left=0)
    axes.set_xlabel("output of all requests (tokens/s)")
    axes.set_ylabel("gap between tokens (ms)")
    return frame.figure_of(axes)


def _lines(axes: Axes, rows: list[LoadRow], index: int) -> None:
    """Draw one method's loads in the order of their throughput; closed and open loops are one line each."""
    for kind in ("closed loop", "Poisson"):
        chosen = sorted(
            (row for row in rows if row.arrivals == kind), key=lambda r: r.serving.output_throughput_tokens_per_s
        )
        speeds = [row.serving.output_throughput_tokens_per_s for row in chosen]
        for percentile, dashes in (("p50", (None, None)), ("p99", (4, 2))):
            gaps = [getattr(row.serving.itl_ms, percentile) for row in chosen]
            (line,) = axes.plot(
                speeds, gaps, color=theme.series_colour(index), marker=theme.MARKERS[index % len(theme.MARKERS)],
                markersize=4, linewidth=1.4, markerfacecolor=theme.light("paper") if kind == "Poisson" else None,
            )  # fmt: skip
            if percentile == "p99":
                line.set_dashes(dashes)
            if chosen:
                told = ", ".join(f"{load_name(r)} {show(g)} ms" for r, g in zip(chosen, gaps, strict=True))
                svg.tip(line, f"{chosen[0].method}, {kind}, {percentile} of gaps: {told}")
