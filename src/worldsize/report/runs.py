"""What a report reads from run folders themselves, each file once: ranks, steps, origins. Torch-free."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from worldsize.records import RankSummary, RunRecord
from worldsize.study.records import StudyResult


class RunFolders:
    """The runs of `result` under `folder`; everything is empty when there is none."""

    def __init__(self, result: StudyResult, folder: Path | None) -> None:
        self.result = result
        self.folder = folder

    def record(self, *, widest: bool = False) -> RunRecord | None:
        """Return run.json of the baseline's first run, or of a run on the most devices."""
        cells = self.result.cells
        in_order = sorted(cells, key=lambda cell: -cell.world_size if widest else not cell.is_baseline)
        names = [run for cell in in_order for run in cell.runs]
        path = self._file(names[0], "run.json") if names else None
        return RunRecord.model_validate_json(path.read_bytes()) if path else None

    @cached_property
    def ranks(self) -> dict[str, list[list[RankSummary]]]:
        """Every rank's summary of every finished repeat, by cell."""
        return {
            name: [[RankSummary.model_construct(**rank) for rank in result["ranks"]] for result in results]
            for name, results in self._results.items()
        }

    @cached_property
    def samples(self) -> dict[str, list[list[float]]]:
        """The slowest rank's time (s) of every timed step of every finished repeat, by cell."""
        return {
            name: [result["step_time_s"]["samples"] for result in results] for name, results in self._results.items()
        }

    @cached_property
    def _results(self) -> dict[str, list[dict[str, Any]]]:
        """result.json of every run by cell, as it is: the analysis has checked each of these files."""
        found = {}
        for cell in self.result.cells:
            paths = [path for run in cell.runs if (path := self._file(run, "result.json"))]
            found[cell.name] = [json.loads(path.read_bytes()) for path in paths]
        return found

    def _file(self, run: str, name: str) -> Path | None:
        if self.folder is None:
            return None
        path = self.folder / run / name
        return path if path.is_file() else None
