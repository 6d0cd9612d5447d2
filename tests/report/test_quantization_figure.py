"""The figure of quality against size: a point for each method, at its own numbers, and axes that can be read."""

from __future__ import annotations

import pytest

from worldsize.inference.quality_records import Estimate
from worldsize.inference.quantization_records import QuantizationReport, QuantizedRow, Sizes
from worldsize.report.figures.quantization import quality_by_size


def row(method: str, size_mb: float, kl: float) -> QuantizedRow:
    nothing = Estimate(value=0, low=0, high=0)
    sizes = Sizes(weights_bytes=int(size_mb * 1e6), buffers_bytes=0, rest_bytes=0)
    return QuantizedRow(
        method=method,
        about="",
        folder="",
        sizes=sizes,
        fp32_bytes=8_000_000,
        size_ratio=size_mb / 8,
        share_quantized=1,
        kl=kl,
        top1=1,
        loss=nothing,
        original=1,
        quantized=1,
        difference=nothing,
    )


def test_each_method_stands_at_its_size_and_divergence() -> None:
    rows = [row("fp32", 8, 0), row("int8", 2.1, 2e-5), row("int4", 1.3, 1.5e-4)]
    report = QuantizationReport(
        model="m", num_parameters=2_000_000, quality="perplexity", data="d", num_windows=1, num_predictions=1,
        kernels=None, rows=rows, refused=[],
    )  # fmt: skip
    figure = quality_by_size(report)
    (axes,) = figure.axes
    figure.draw_without_rendering()
    points = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.lines if line.get_marker() != "None"
    }
    assert sorted(points) == [(pytest.approx(1.3), 1.5e-4), (pytest.approx(2.1), 2e-5)]
    assert {"int8", "int4"} <= {text.get_text() for text in axes.texts}
    assert "1e-05" in [label.get_text() for label in axes.get_yticklabels()]
    assert axes.get_xlim()[0] == 0
