"""README's numbers are those of the committed results."""

from __future__ import annotations

import json
from typing import Any

from tests.docs.pages import ROOT, links

IMAGES = ROOT / "docs" / "images"


def results() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((IMAGES / "readme_results.json").read_text("utf-8"))
    return loaded


def shown() -> str:
    readme = (ROOT / "README.md").read_text("utf-8")
    return readme.split("<!-- begin: ")[1].split("<!-- end: ")[0]


def test_times_speedups_and_losses_are_those_measured() -> None:
    for cell in results()["cells"]:
        seconds = cell["step_time_s"]["median"]
        assert (f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms") in shown()
        assert f"{cell['losses'][-1]:.3f}" in shown()
        if not cell["is_baseline"]:
            speedup = cell["speedup"]
            assert f"{speedup['median']:.2f}x" in shown()
            assert f"{speedup['low']:.2f}-{speedup['high']:.2f}" in shown()
            base = next(other for other in results()["cells"] if other["name"] == cell["baseline"])
            assert abs(base["step_time_s"]["median"] / seconds - speedup["median"]) < 1e-9


def test_the_study_is_the_one_that_make_runs() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    worlds = ",".join(str(cell["world_size"]) for cell in results()["cells"])
    repeats = {len(cell["runs"]) for cell in results()["cells"]}
    assert f"worldsize study --preset tiny --nproc {worlds} --repeats {repeats.pop()} --out" in makefile
    assert not repeats


def test_images_are_there_and_small() -> None:
    images = [target for target in links(ROOT / "README.md") if target.endswith(".png")]
    assert images
    for image in images:
        raw = (ROOT / image).read_bytes()
        assert raw.startswith(b"\x89PNG")
        assert len(raw) < 150_000


def test_the_files_to_read_first_are_five_and_the_same_for_contributors() -> None:
    lists = []
    for page in ("README.md", "CONTRIBUTING.md"):
        section = (ROOT / page).read_text("utf-8").split("## Read these files first")[1].split("\n## ")[0]
        lists.append([line for line in section.splitlines() if line[:1].isdigit()])
    assert len(lists[0]) == 5
    assert lists[0] == lists[1]
