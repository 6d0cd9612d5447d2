"""What `worldsize report` is about: one study, any runs, or for a proposal a study under both kinds of scaling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worldsize.errors import UserError
from worldsize.study.records import StudyResult


@dataclass(frozen=True)
class Source:
    """What was read. `other` is the same work under the other scaling mode, for a proposal alone."""

    result: StudyResult
    folder: Path
    template: str
    other: StudyResult | None = None


def read(paths: list[Path], override: bool, title: str | None, template: str) -> Source:
    """Analyse what the paths hold. Raises UserError for what is no study or run, or does not go together."""
    from worldsize.study.results import analyse, from_runs

    studies = [path for path in paths if (path / "study.json").is_file()]
    for path in paths:
        if path not in studies and not (path / "run.json").is_file():
            raise UserError(
                f"{path} {_what_it_is(path)}. Give the folder of a study (it holds study.json), or folders of runs "
                f"(each holds run.json and, once finished, result.json)."
            )
    other = None
    if template == "proposal" and len(studies) == len(paths) == 2:
        result, other = analyse(studies[0], override), analyse(studies[1], override)
        if result.scaling == other.scaling:
            raise UserError(
                f"{studies[0]} and {studies[1]} are both {result.scaling} scaling. Give one of each, or one."
            )
    elif len(studies) == 1 and len(paths) == 1:
        result = analyse(studies[0], override)
    elif studies:
        raise UserError(
            f"{studies[0]} is a study, and comes alone. To compare across studies give run folders: "
            f"{studies[0]}/runs/*/* …"
        )
    else:
        result = from_runs(paths, override=override)
    folder = studies[0] if studies else Path()
    if template == "proposal" and other is None:
        other = _same_runs_otherwise(result, folder, override)
    if title is not None:
        result = result.model_copy(update={"title": title})
    return Source(result, folder, template, other)


def _what_it_is(path: Path) -> str:
    if not path.exists():
        return "does not exist"
    return "is not a folder" if not path.is_dir() else "holds neither a study nor a run"


def _same_runs_otherwise(result: StudyResult, folder: Path, override: bool) -> StudyResult | None:
    """Read a strong study's runs as weak scaling, where a grid of batches holds the same per-device batch twice."""
    from worldsize.study.results import from_runs

    if result.scaling != "strong":
        return None
    shares: dict[float, list[list[Path]]] = {}
    for cell in result.cells:
        if cell.runs:
            share = cell.global_batch / cell.world_size
            shares.setdefault(share, []).append([folder / run for run in cell.runs])
    smallest = min((cell.world_size for cell in result.cells if cell.runs), default=1)
    based = {c.global_batch / c.world_size for c in result.cells if c.runs and c.world_size == smallest}
    kept = [
        run for share, cells in shares.items() if share in based and len(cells) > 1 for runs in cells for run in runs
    ]
    return from_runs(kept, scaling="weak", override=override, title=result.title) if kept else None
