"""Every rule that the code can raise has its page, and every page its rule."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "explain" / "rules"
SECTIONS = ["What it means", "The figures it prints", "What triggers it", "What to do"]


def rules() -> dict[str, set[str]]:
    """Return the rules named in the code, each with the severities it is raised with (none where it is computed)."""
    rooms = [ROOT / "src" / "worldsize" / room for room in ("scaling", "study")]
    code = "".join(path.read_text("utf-8") for room in rooms for path in room.glob("*.py"))
    found: dict[str, set[str]] = {
        name: set() for name in re.findall(r'(?:\brule=|\bCheck\(|\bin_runs\()"([a-z-]+)"', code)
    }
    for name, severity in re.findall(r'(?:in_runs\(|rule=)"([a-z-]+)", (?:severity=)?"(blocks|warns)"', code):
        found[name].add(severity)
    return found


def test_rules_are_found_in_the_code() -> None:
    assert {"slow-rank", "different-loss", "super-linear", "until-not-reached", "timer-misses-time"} <= rules().keys()


def test_every_rule_has_a_page_and_every_page_a_rule() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == rules().keys()


@pytest.mark.parametrize("name", sorted(rules()))
def test_a_page_answers_all_questions(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text("utf-8")
    assert text.startswith(f"# {name}\n")
    sections = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    assert sections[::2] == SECTIONS
    assert all(len(body.split()) >= 1 for body in sections[1::2])
    for severity in rules()[name]:
        assert text.split("\n")[2].lower().startswith(severity)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (PAGES / target).exists(), target


def test_every_rule_is_named_by_a_test_that_triggers_it() -> None:
    here = Path(__file__)
    tests = [*(ROOT / "tests" / "scaling").glob("test_*.py"), *(ROOT / "tests" / "study").glob("test_*.py")]
    text = "".join(path.read_text("utf-8") for path in tests if path != here)
    assert [name for name in rules() if f'"{name}"' not in text] == []
