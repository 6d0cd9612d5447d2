"""What each method leaves of a model's quality, against the size that it leaves."""

from __future__ import annotations

from matplotlib.figure import Figure

from worldsize.inference.quantization_records import QuantizationReport
from worldsize.report import svg, theme
from worldsize.report.figures import frame

SMALLEST_KL = 1e-9
"""What is drawn for a divergence of nothing, on an axis that has no zero."""


@theme.styled
def quality_by_size(report: QuantizationReport) -> Figure:
    """A point for each method: megabytes on disk along x, divergence from the original up y; lower left is better."""
    axes = frame.frame(170, left_pt=52)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda kl, _: f"{kl:.0e}")
    axes.minorticks_off()
    axes.grid(axis="both")
    rows = [row for row in report.rows if row.kl > SMALLEST_KL]
    for index, row in enumerate(rows):
        x = row.sizes.total_bytes / 1e6
        (point,) = axes.plot(
            [x], [row.kl], linestyle="none", marker=theme.MARKERS[index % len(theme.MARKERS)], markersize=6,
            color=theme.series_colour(index),
        )  # fmt: skip
        svg.tip(point, f"{row.method}: {x:,.2f} MB, KL {row.kl:.2e} nats, same top-1 {row.top1:.2%}")
        axes.annotate(row.method, (x, row.kl), xytext=(5, 4), textcoords="offset points", fontsize=7.5)
    largest = max([row.sizes.total_bytes for row in rows] + [row.fp32_bytes for row in rows], default=1) / 1e6
    axes.set_xlim(0, largest * 1.05)
    axes.axvline(largest, color=theme.light("muted"), linewidth=0.8, linestyle=(0, (4, 1.5)))
    axes.text(largest, 1.0, "fp32 ", transform=axes.get_xaxis_transform(), ha="right", va="top", fontsize=7.5)
    axes.margins(y=0.25)
    axes.set_xlabel("size on disk (MB)")
    axes.set_ylabel("KL divergence from fp32 (nats)")
    return frame.figure_of(axes)
