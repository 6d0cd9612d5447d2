"""Quality rows from the report that `worldsize quantize` leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worldsize.bench.quality import quality_rows
from worldsize.errors import UserError
from worldsize.inference.quantization_records import REPORT

ROW = {
    "method": "int8",
    "folder": "out/q/int8",
    "sizes": {"weights_bytes": 900, "buffers_bytes": 60, "rest_bytes": 40},
    "fp32_bytes": 4000,
    "original": 20.0,
    "quantized": 20.5,
    "difference": {"value": 0.5, "low": 0.25, "high": 0.75},
}


def test_the_original_and_each_method(tmp_path: Path) -> None:
    (tmp_path / REPORT).write_text(json.dumps({"model": "out/run", "quality": "perplexity", "rows": [ROW]}))
    first, second = quality_rows([tmp_path / "nowhere", tmp_path])
    assert (first.method, first.folder, first.size_bytes, first.value) == ("fp32", "out/run", 4000, 20.0)
    assert (second.method, second.size_bytes, second.figure) == ("int8", 1000, "perplexity")
    assert (second.value, second.low, second.high) == (20.5, 20.25, 20.75)


def test_no_report_is_no_quality(tmp_path: Path) -> None:
    assert quality_rows([tmp_path]) == []


@pytest.mark.parametrize("text", ["{", "{}", '{"quality": "perplexity", "rows": [{}]}', "[1]"])
def test_another_file_of_that_name_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / REPORT).write_text(text)
    with pytest.raises(UserError, match="is no report"):
        quality_rows([tmp_path])
