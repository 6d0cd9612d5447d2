"""What the documentation holds: pages, links, anchors, and the commands in its console blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELVES = ("start", "how-to", "explain", "reference")
EXPLAIN_HEADINGS = (
    "Definition",
    "Formula",
    "Clock",
    "What it leaves out",
    "How it can mislead",
    "Where it is",
)
NOT_A_METRIC = {"rules.md", "audit-rules.md", "how-a-run-flows.md", "strategies.md", "checkpoints.md"}


def pages() -> list[Path]:
    """Return README, CONTRIBUTING and every page of the documentation, in reading order."""
    shelves = [page for shelf in SHELVES for page in sorted((ROOT / "docs" / shelf).glob("*.md"))]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "index.md", *shelves]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Command:
    """One line after a `$` of a ```console block."""

    text: str
    exit_code: int
    """What a comment `# exits with N` says, else 0."""
    said: tuple[str, ...]
    """The lines that the page shows as its output."""


def commands(page: Path) -> list[Command]:
    """Return a page's commands in order. A block of another language that looks like a shell's is an error."""
    found: list[Command] = []
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        assert language not in ("bash", "sh", "shell", ""), f"{name(page)}: use ```console with `$ ` before commands"
        if language == "console":
            found += _commands(body)
    return found


def _commands(body: str) -> list[Command]:
    found: list[Command] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            text, _, comment = line[2:].partition("  #")
            exits = re.search(r"exits with (\d+)", comment)
            found.append(Command(text.strip(), int(exits[1]) if exits else 0, ()))
        else:
            assert found, f"a console block begins with a command, not with {line!r}"
            found[-1] = Command(found[-1].text, found[-1].exit_code, (*found[-1].said, line))
    return found


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def inline_commands(page: Path) -> list[str]:
    """Return the commands of ours that stand in running text and in tables."""
    code = re.findall(r"`([^`\n]+)`", prose(page))
    return [text for text in code if re.match(r"(worldsize|torchrun|python -m worldsize) \S", text)]


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and images that are not addresses on the web."""
    text = prose(page)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
