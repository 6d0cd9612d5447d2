"""Reads a page with html.parser alone: tags that balance, ids, links, tables."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """What a page holds; raises AssertionError where a tag is closed that is not the one open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[dict[str, str]]] = []
        self.text: list[str] = []
        self._column: str | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append({})
        elif tag == "td":
            self._column = attributes.get("data-column")
        elif tag == "data" and self._column:
            self.tables[-1][-1][f"{self._column}:value"] = attributes["value"] or ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        if tag == "td":
            self._column = None

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._column:
            row = self.tables[-1][-1]
            row[self._column] = row.get(self._column, "") + data

    @property
    def ids(self) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get("id"))]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())
