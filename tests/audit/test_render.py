"""An audit in print: all of the record, none of it read as markup, nothing wider than the terminal."""

from __future__ import annotations

from html.parser import HTMLParser

from tests.audit.published import audited
from worldsize.audit.judge import assemble, audit_rows
from worldsize.audit.page import html
from worldsize.audit.records import Audit, Row
from worldsize.audit.render import markdown, text

EVIL = "<script>alert(1)</script> | **bold** \x1b[31m {{ 7 * 7 }}"


class Words(HTMLParser):
    """Collects the words of a page and the tags that it uses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.urls: list[str] = []
        self._words: list[str] = []
        self.feed(page)
        self.words = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.urls += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self._words.append(data)


def evil() -> Audit:
    rows = [Row(where=EVIL, series=EVIL, run=EVIL, devices=n, time_s=100, samples=n * 100) for n in (1, 2)]
    rows += [Row(where="x", series="other", devices=n, time_s=100, samples=n * 100) for n in (1, 2)]
    rows += [Row(where=EVIL, devices=1, communication_s=3)]
    return assemble([EVIL], 5, *audit_rows(rows, EVIL))


def test_every_finding_is_printed_everywhere() -> None:
    for letter in "abcdefghi":
        audit = audited(letter)
        page = Words(html(audit)).words
        plain, marked = " ".join(text(audit).split()), markdown(audit).replace("\\", "")
        sentences = [finding.message for finding in audit.findings]
        for comparison in audit.comparisons:
            sentences += [finding.message for finding in comparison.findings]
            sentences += [correction.text for correction in comparison.corrections]
            sentences += [comparison.status] * 2 + comparison.not_told
            sentences += [comparison.lost_time.message] if comparison.lost_time else []
        for sentence in sentences:
            assert sentence in page
            assert sentence in marked
            assert sentence in plain or sentence.upper() in plain


def test_a_finding_about_a_compared_row_is_printed_once() -> None:
    assert " ".join(text(audited("c")).split()).count("warm-up was never left") == 1
    assert audited("c").headline == "The one comparison does not stand."


def test_names_from_files_stay_text() -> None:
    page = Words(html(evil()))
    assert "script" not in page.tags
    assert "{{ 7 * 7 }}" in page.words
    assert "\x1b" not in text(evil())
    assert "\n" in text(evil())
    assert "<script>" not in markdown(evil())
    assert "\\*\\*bold" in markdown(evil())


def test_the_page_asks_for_nothing() -> None:
    page = html(audited("c"))
    assert Words(page).urls == ["data:,"]
    assert "@import" not in page
    assert "url(" not in page


def test_series_are_told_apart() -> None:
    assert [comparison.name for comparison in audited("b").comparisons] == [
        "1 → 4 devices, first",
        "1 → 4 devices, second",
    ]
