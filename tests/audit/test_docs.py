"""The three pages about audits say what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from tests.audit.published import EXAMPLES
from worldsize.audit import pair_rules, rules
from worldsize.audit.columns import ALIASES, COLUMNS
from worldsize.audit.paths import audit_paths
from worldsize.audit.render import text

DOCS = Path(__file__).parents[2] / "docs"


def test_every_rule_has_an_entry() -> None:
    page = (DOCS / "explain/audit-rules.md").read_text(encoding="utf-8")
    entries = set(re.findall(r"[a-z]+(?:-[a-z]+)+", " ".join(re.findall(r"^\*\*(.+?)\*\*", page, re.M))))
    entries |= {f"different-{name}" for name in ("precision", "optimizer", "schedule", "devices")}
    source = inspect.getsource(rules) + inspect.getsource(pair_rules)
    named = set(re.findall(r'_finding\(\s*"([a-z-]+)"', source)) | set(re.findall(r'rule = "([a-z-]+)"', source))
    assert len(named) >= 19
    assert named - entries == set()
    assert set(pair_rules.SETTING_RULES.values()) <= entries | {"different-data"}


def test_every_column_and_alias_is_listed() -> None:
    page = (DOCS / "reference/audit-format.md").read_text(encoding="utf-8")
    listed = {cells[1].strip("` "): cells[4] for line in page.splitlines() if len(cells := line.split("|")) == 6}
    assert set(COLUMNS) <= listed.keys()
    for column, aliases in ALIASES.items():
        assert re.findall(r"`([^`]+)`", listed[column]) == list(aliases)


def test_the_how_to_shows_what_is_printed() -> None:
    page = (DOCS / "how-to/audit.md").read_text(encoding="utf-8")
    shown = re.search(r"\$ worldsize audit examples/audit/b-every-rank-all-data.csv\n(.*?)```", page, re.S)
    assert shown
    assert text(audit_paths([str(EXAMPLES / "b-every-rank-all-data.csv")])).startswith(shown[1].rstrip())


def test_links_lead_somewhere() -> None:
    for name in ("how-to/audit.md", "explain/audit-rules.md", "reference/audit-format.md"):
        for link in re.findall(r"\]\((?!http)([^)#]+)", (DOCS / name).read_text(encoding="utf-8")):
            assert (DOCS / name).parent.joinpath(link).resolve().is_file(), (name, link)
