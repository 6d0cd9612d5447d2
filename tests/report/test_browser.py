"""Opens the page in Chromium, where there is one: nothing overflows, complains or asks for anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.report.filled import FILLED, ONE_CURVE
from tests.report.studies import STUDIES
from worldsize.report import html
from worldsize.report.cost import Request, plan
from worldsize.report.proposal import Measurement, proposal_document

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--enable-logging=stderr", "--v=0"),
]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]

# The page forbids scripts, so a frame around it measures: same folder, opened as files that may see each other.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">
<iframe src="page.html" style="border:0;width:{width}px;height:4000px"></iframe>
<script>onload = () => {{
  const inner = document.querySelector("iframe").contentWindow, page = inner.document.documentElement;
  const wide = [...inner.document.querySelectorAll("body *")].filter(
    each => !each.closest("thead") && each.getBoundingClientRect().right > inner.innerWidth + 0.5);
  document.title = JSON.stringify({{
    inner: inner.innerWidth, scroll: page.scrollWidth, wide: wide.slice(0, 5).map(each => each.outerHTML.slice(0, 80)),
    requests: inner.performance.getEntriesByType("resource").map(entry => entry.name),
    background: inner.getComputedStyle(inner.document.body).backgroundColor,
    figures: inner.document.querySelectorAll("svg[role=img]").length,
    hints: inner.document.querySelectorAll("svg title").length,
    flat: [...inner.document.querySelectorAll("svg[role=img]")].filter(
      each => each.getBoundingClientRect().height < 60 || each.querySelectorAll("path").length < 5).length}});
}};</script>"""


def look(folder: Path, width: int, scheme: str) -> tuple[dict, list[str]]:
    """Return what the page measures in a window `width` wide, and the lines of the console."""
    (folder / "probe.html").write_text(PROBE.format(width=width), encoding="utf-8")
    command = [
        str(CHROMIUM), *FLAGS, "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", "--window-size=1400,4000",
        "--virtual-time-budget=4000", "--dump-dom", (folder / "probe.html").as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, check=True)
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout, re.DOTALL)
    assert title, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), console


def proposal() -> str:
    request = Request(devices=12, tokens=10**9)
    return html.page(proposal_document(Measurement(ONE_CURVE, None), None, plan(ONE_CURVE, request)))


PAGES = {
    "refused": lambda: html.render(STUDIES["refused"], None),
    "many cells": lambda: html.render(STUDIES["many cells"], None),
    "filled": lambda: html.render(FILLED, None),
    "proposal": proposal,
}
NUM_FIGURES = {"refused": 7, "many cells": 9, "filled": 12, "proposal": 4}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_the_page_fits_and_is_quiet(tmp_path: Path, name: str, width: int, scheme: str) -> None:
    (tmp_path / "page.html").write_text(PAGES[name](), encoding="utf-8")
    seen, console = look(tmp_path, width, scheme)
    assert seen["inner"] == width
    assert seen["scroll"] <= width, seen["wide"]
    assert seen["wide"] == []
    assert seen["requests"] == []
    assert console == []
    assert seen["figures"] >= NUM_FIGURES[name]
    assert seen["hints"] > seen["figures"]
    assert seen["flat"] == 0
    assert seen["background"] == {"light": "rgb(253, 252, 250)", "dark": "rgb(22, 24, 27)"}[scheme]
