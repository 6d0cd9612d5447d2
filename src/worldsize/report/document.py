"""A report before it has a format: sections of lines, tables, figures and definitions. Every writer (HTML, Markdown,
LaTeX, typst) sets the same Document. Torch-free, and free of matplotlib: a figure is drawn by whoever sets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worldsize.report.method import Definition
from worldsize.report.rows import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Words:
    """A paragraph; a muted one says that something is not there."""

    text: str
    muted: bool = False


@dataclass(frozen=True)
class Lines:
    """Sentences, one below the other."""

    items: list[str]


@dataclass(frozen=True)
class Sheet:
    """A table with its number in the document."""

    table: Table
    number: int


@dataclass(frozen=True)
class Plate:
    """A figure with its number in the document. `key` is also its file's name."""

    key: str
    number: int
    title: str
    caption: str
    alt: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Plates:
    """Figures side by side."""

    items: list[Plate]


@dataclass(frozen=True)
class Finding:
    """A problem and where it was found: '' is the study as a whole. Severity: 'blocks', 'warns' or 'failed'."""

    where: str
    rule: str
    severity: str
    message: str

    @property
    def effect(self) -> str:
        """What the problem means for the reader."""
        return {"blocks": "no speedup is printed", "failed": "failed"}.get(self.severity, "warning")


@dataclass(frozen=True)
class Findings:
    """Problems, those that block first."""

    items: list[Finding]


@dataclass(frozen=True)
class Terms:
    """Words with their formulas and definitions."""

    items: list[Definition]


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and what is known of it."""

    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """Text that is set as it stands; `summary` folds it away where a format can, and leaves it out where not."""

    text: str
    summary: str = ""


Block = Heading | Words | Lines | Sheet | Plates | Findings | Terms | Facts | Code


@dataclass(frozen=True)
class Section:
    """A section; two that follow each other with `is_half` stand side by side where there is room."""

    key: str
    title: str
    blocks: list[Block]
    is_half: bool = False


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    headline: str
    byline: str
    sections: list[Section] = field(default_factory=list)

    @property
    def plates(self) -> list[Plate]:
        """All figures, in order."""
        return [plate for block in self.blocks if isinstance(block, Plates) for plate in block.items]

    @property
    def blocks(self) -> Iterator[Block]:
        return (block for section in self.sections for block in section.blocks)


@dataclass
class Numbers:
    """Counts tables and figures while a document is put together."""

    num_sheets: int = 0
    num_plates: int = 0

    def sheet(self, table: Table) -> Sheet:
        self.num_sheets += 1
        return Sheet(table, self.num_sheets)

    def plate(self, key: str, title: str, caption: str, alt: str, draw: Callable[[], Figure]) -> Plate:
        self.num_plates += 1
        return Plate(key, self.num_plates, title, caption, alt, draw)
