"""The pages agree with the code and with each other: links, headings, config keys, rules, files, generated parts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import EXPLAIN_HEADINGS, NOT_A_METRIC, ROOT, anchors, commands, links, name, pages, prose
from worldsize.config.load import presets
from worldsize.config.messages import all_keys, sections

WRONG_ON_PURPOSE = {"model.d_modl"}
metrics = [page for page in pages() if page.parent.name == "explain" and page.name not in NOT_A_METRIC]


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name(page)}: {target}"
        assert not anchor or anchor in anchors(there), f"{name(page)}: {target}"


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
    shelved = {page for page in pages() if page.parent.parent.name == "docs"}
    assert shelved <= reached


@pytest.mark.parametrize("page", metrics, ids=name)
def test_a_metrics_page_answers_all_questions(page: Path) -> None:
    found = re.findall(r"^## (.+)$", page.read_text("utf-8"), re.MULTILINE)
    assert tuple(found) == EXPLAIN_HEADINGS


def keys_named(text: str) -> set[str]:
    """Return what looks like a dotted config key."""
    return set(re.findall(rf"(?<![\w./-])((?:{'|'.join(sections())})\.[a-z_0-9]+)(?![\w/(])", text))


@pytest.mark.parametrize("page", [p for p in pages() if p.parent.name != "reference"], ids=name)
def test_every_key_that_is_named_exists(page: Path) -> None:
    files = re.compile(r"\.(py|md|yaml|json|jsonl|safetensors|gguf)$")
    named = {key for key in keys_named(page.read_text("utf-8")) if not files.search(key)}
    assert named - WRONG_ON_PURPOSE <= set(all_keys())


def test_a_key_that_does_not_exist_would_be_noticed() -> None:
    assert keys_named("set `train.stps=4`, see train/loop.py and `model.d_ff`") == {"train.stps", "model.d_ff"}


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_file_of_ours_that_is_named_exists(page: Path) -> None:
    rooms = [folder.name for folder in (ROOT / "src" / "worldsize").iterdir() if folder.is_dir()]
    pattern = rf"`((?:src/worldsize/|tests/|docs/|examples/)[\w./-]+|(?:{'|'.join(rooms)})/[\w./-]+\.\w+)`"
    for path in re.findall(pattern, prose(page)):
        at_root, in_package = ROOT / path, ROOT / "src" / "worldsize" / path
        assert "NAME" in path or at_root.exists() or in_package.exists(), f"{name(page)}: {path}"


def test_every_rule_has_its_entry() -> None:
    sources = [*(ROOT / "src/worldsize/scaling").glob("*.py"), *(ROOT / "src/worldsize/study").glob("*.py")]
    code = "".join(source.read_text("utf-8") for source in sources)
    rules = set(re.findall(r'(?:\brule=|\bCheck\(|\bin_runs\()"([a-z-]+)"', code))
    assert len(rules) > 30
    page = (ROOT / "docs/explain/rules.md").read_text("utf-8")
    entries = dict(re.findall(r"^\| \[([a-z-]+)\]\(rules/\1\.md\) \| (blocks|warns) \|", page, re.MULTILINE))
    assert set(entries) == rules
    for rule, severity in re.findall(r'(?:in_runs\(|rule=)"([a-z-]+)", (?:severity=)?"(blocks|warns)"', code):
        assert entries[rule] == severity, rule


def test_every_preset_that_is_named_exists() -> None:
    for page in pages():
        for command in commands(page):
            found = re.search(r"--preset (\S+)", command.text)
            assert not found or found[1] in presets(), f"{name(page)}: {command.text}"


def test_public_functions_import_without_torch() -> None:
    page = (ROOT / "docs/reference/python.md").read_text("utf-8")
    modules = sorted(set(re.findall(r"^## (worldsize[\w.]*)\.\w+$", page, re.MULTILINE)))
    assert "worldsize.study.results" in modules
    code = f"import sys, {', '.join(modules)}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", check=True)


@pytest.mark.parametrize(
    "arguments", [["docs/generate_reference.py", "--check"], ["docs/make_readme_figure.py", "--check"]]
)
def test_what_is_generated_is_current(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run python {arguments[0]} (for README after `make study`, with out/study)\n{done}"


def test_no_page_speaks_of_the_machine_it_was_written_on() -> None:
    for page in pages():
        assert not re.search(r"/work/|/tmp/|/home/", page.read_text("utf-8")), name(page)
