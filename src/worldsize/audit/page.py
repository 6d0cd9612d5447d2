"""An audit as one self-contained HTML page: no script, nothing requested, light and dark, phone and print."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import worldsize.report
from worldsize.audit.judge import alone
from worldsize.audit.records import Audit
from worldsize.audit.render import figures, said
from worldsize.audit.text import times_text
from worldsize.report import theme
from worldsize.report.labels import plain

CSS = Path(worldsize.report.__file__).parent / "templates" / "report.css"

OWN_CSS = """
.status, .findings dt { font-weight: 600; }
.status.no { color: var(--phase-exposed_communication_s); }
.status.maybe { color: var(--muted); }
"""

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="generator" content="worldsize">
<link rel="icon" href="data:,">
<title>Audit of {{ audit.sources | join(", ") | plain }}</title>
<style>
:root { {{ light }} }
@media (prefers-color-scheme: dark) { :root { {{ dark }} } }
@media print { :root { {{ light }} --paper: #ffffff; } }
{{ css }}
</style>
</head>
<body>
<main>
<header>
<p class="kicker">Audit of {{ audit.sources | join(", ") | plain }}</p>
<h1>{{ audit.headline }}</h1>
</header>
{% for comparison in audit.comparisons %}
<section>
<h2>{{ comparison.name | plain }}:
<span class="status {{ classes[comparison.status] }}">{{ comparison.status }}</span></h2>
<p>{{ comparison | figures | plain }}</p>
<dl class="findings">
{% for label, sentence in comparison | said %}
<dt>{{ label | plain }}</dt>
<dd>{{ sentence | plain }}</dd>
{% endfor %}
</dl>
</section>
{% endfor %}
{% if alone %}
<section>
<h2>Single rows</h2>
<dl class="findings">
{% for finding in alone %}
<dt>{{ finding.rule | plain }}<span class="severity {{ finding.severity }}">{{ finding.severity }}</span></dt>
<dd>{{ finding.where | plain }}: {{ finding.message | plain }}
{%- for correction in finding.corrections %}. Would be: {{ correction.text | plain }}{% endfor %}</dd>
{% endfor %}
</dl>
</section>
{% endif %}
{% if audit.notes %}
<section>
<h2>Notes</h2>
<ul>
{% for note in audit.notes %}
<li>{{ note | plain }}</li>
{% endfor %}
</ul>
</section>
{% endif %}
</main>
</body>
</html>
"""

CLASSES = {"stands": "yes", "does not stand": "no", "cannot be told": "maybe"}


def html(audit: Audit) -> str:
    """Return the page."""
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page.filters |= {"plain": plain, "figures": figures, "said": said, "times": times_text}
    return page.from_string(TEMPLATE).render(
        audit=audit,
        alone=alone(audit.comparisons, audit.findings),
        classes=CLASSES,
        css=Markup(CSS.read_text(encoding="utf-8") + OWN_CSS),
        light=Markup(theme.css_variables("light")),
        dark=Markup(theme.css_variables("dark")),
    )
