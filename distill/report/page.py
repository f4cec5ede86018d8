"""report.html: one file that opens from disk, asks the network for nothing, and trusts no text that a model wrote."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import PromptSection
from distill.report import page_figures as figures
from distill.report.page_cards import OUTCOMES, SETS, make_cards
from distill.report.page_story import count_failures, explain_interval, list_checks
from distill.report.results import Results

if TYPE_CHECKING:
    import jinja2

ASSETS = Path(__file__).parent / "assets"
STYLES = ("base.css", "figures.css", "reader.css", "print.css")
SCRIPTS = ("reader.js", "keys.js", "ballot.js", "start.js")


def render_page(prompt: PromptSection, results: Results, summary: Mapping[str, Any], texts: bool = True) -> str:
    """The whole page. Everything is escaped: only this package's own style and script are let through.

    Figures come from `summary`, as summary.json holds it; questions and answers from `results`. Without `texts` the page
    holds figures alone: no question, source or answer. A browser reads no encrypted page.
    """
    from markupsafe import Markup

    style, script = (join_assets(names) for names in (STYLES, SCRIPTS))
    measures = {name: measure for cases in results.sets.values() for name, measure in cases.measures.items()}
    primary = summary["primary_metric"]
    page = make_environment().get_template("page.html.j2").render(
        summary=summary, figures=figures, measures=measures, primary=summary["metrics"][primary],
        groups=figures.sort_metrics(summary["metrics"], results.sets["heldout"].measures, primary),
        checks=list_checks(summary), failures=count_failures(summary), meaning=explain_interval(summary),
        texts=texts, cards=make_cards(prompt, results) if texts else [], outcomes=OUTCOMES,
        titles={name: results.sets[name].title for name in SETS if name in results.sets},
        style=Markup(style), style_hash=hash_inline(style), script=Markup(script), script_hash=hash_inline(script),
    )
    # Half a surrogate pair, which a model may write, has no UTF-8: it becomes a question mark.
    return page.encode("utf-8", "replace").decode("utf-8")


def make_environment() -> jinja2.Environment:
    """Jinja over this package's templates, escaping whatever is put in; a name that does not exist is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(score=format_score, signed=format_signed, title=format_title, stamp=format_stamp)
    return environment


def join_assets(names: tuple[str, ...]) -> str:
    """Files of this package as one text. Text mode reads any line end as LF, which is what a browser hashes."""
    return "\n" + "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in names)


def hash_inline(text: str) -> str:
    """The page's content security policy allows inline style and script by this hash alone (CSP level 3, section 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def format_score(value: float | None) -> str:
    """Three decimals."""
    return "-" if value is None else f"{value:.3f}"


def format_signed(value: float | None) -> str:
    """Three decimals with a sign, a minus as wide as a plus; a zero has none."""
    return "-" if value is None else f"{value:+.3f}".replace("-", "\u2212") if round(value, 3) else "0.000"


def format_title(name: str) -> str:
    """reference_similarity as Reference similarity."""
    return name.replace("_", " ").capitalize()


def format_stamp(text: str) -> str:
    """2026-11-23T10:15:00+00:00 as 2026-11-23 10:15 UTC."""
    return f"{text[:10]} {text[11:16]} UTC"
