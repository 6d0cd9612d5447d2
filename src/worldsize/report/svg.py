"""A matplotlib figure as SVG that lives inside an HTML page: text stays text, colours follow the page's theme,
ids are unique on the page, and what lies under the pointer says its numbers."""

from __future__ import annotations

import html
import io
import re
import warnings

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from worldsize.report import theme
from worldsize.report.labels import plain

_TIP = "tip:"
_ROLE_OF = {colour.light: role for role, colour in theme.COLOURS.items()}


def tip(artist: Artist, text: str) -> None:
    """Make `text` appear when the pointer rests on `artist` in the page; other formats leave it out."""
    artist.set_gid(_TIP + plain(text))


def inline(figure: Figure, key: str, alt: str) -> str:
    """Return `figure` as an <svg> element for an HTML page.

    `key` is put in front of every id and must be unique on the page; `alt` is read out in place of the drawing.
    The viewBox is in points and there is no width: the page decides.
    """
    svg = _raw(figure)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    opening = rf'<svg role="img" aria-label="{_quoted(alt)}" \1>'
    svg = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", opening, svg, count=1)
    svg = re.sub(rf'<g id="{_TIP}([^"]*)">', r"<g><title>\1</title>", svg)
    svg = re.sub(r'\bid="', f'id="{key}-', svg)
    svg = svg.replace("url(#", f"url(#{key}-").replace('xlink:href="#', f'href="#{key}-')
    svg = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", _font, svg)
    svg = re.sub(r"#[0-9a-f]{6}\b", _variable, svg)
    return re.sub(r"<(path|use|rect|circle|stop|image)\b([^>]*?)\s*/>", r"<\1\2></\1>", svg)


def _raw(figure: Figure) -> str:
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with theme.style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser has other fonts
        figure.savefig(text, format="svg", metadata=nothing, transparent=True)
    return text.getvalue()


def _quoted(text: str) -> str:
    """Return `text` as an attribute, with the backslashes that a replacement pattern needs doubled."""
    return html.escape(plain(text), quote=True).replace("\\", "\\\\")


def _font(match: re.Match[str]) -> str:
    """Keep size and weight of a `font:` shorthand, and leave the family to the page."""
    weight = "font-weight: 700; " if "bold" in match[1] or "700" in match[1] else ""
    return f"{weight}font-size: {match[2]}"


def _variable(match: re.Match[str]) -> str:
    role = _ROLE_OF.get(match[0])
    return f"var(--{role})" if role else match[0]
