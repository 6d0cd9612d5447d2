"""What `worldsize quantize` found out about a model, from the reports that lie beside it. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from worldsize.bench.records import QualityRow
from worldsize.errors import UserError
from worldsize.inference.quantization_records import REPORT


def quality_rows(folders: Iterable[Path]) -> list[QualityRow]:
    """Return the rows of the first report found in `folders`: the original first; none where there is no report.

    Raises UserError when a report cannot be read.
    """
    path = next((folder / REPORT for folder in folders if (folder / REPORT).is_file()), None)
    if path is None:
        return []
    try:
        report = json.loads(path.read_text("utf-8"))
        rows = [_row(row, report["quality"]) for row in report["rows"]]
        originals = [
            QualityRow(
                method="fp32",
                folder=report["model"],
                size_bytes=row["fp32_bytes"],
                figure=report["quality"],
                value=row["original"],
            )
            for row in report["rows"][:1]
            if all(other.method != "fp32" for other in rows)
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no report of `worldsize quantize` ({error!r}). Move it away, or make it anew."
        ) from None
    return originals + rows


def _row(row: dict[str, Any], figure: str) -> QualityRow:
    """Return a row with the interval of its difference from the original, put around the original."""
    return QualityRow(
        method=str(row["method"]),
        folder=str(row["folder"]),
        size_bytes=sum(row["sizes"].values()),
        figure=figure,
        value=row["quantized"],
        low=row["original"] + row["difference"]["low"],
        high=row["original"] + row["difference"]["high"],
    )
