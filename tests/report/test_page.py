"""The page opens from disk, asks nobody for anything, and lets no text of a model act."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.report.page import Plot, format_signed, hash_inline, render_page
from distill.report.results import compare_answers
from distill.report.statistics import Comparison
from tests.report.answers import TOPICS, WordEmbedder, make_answer, make_config, make_example, make_results, make_summary

VOID = {"meta", "input", "br", "rect", "line", "circle"}
HOSTILE = [
    "<script>document.title='owned'</script>", "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)>", "' onmouseover='alert(1)", "javascript:alert(1)", "{{ 7 * 7 }} {% raw %}", "<!-- -->]]>",
    "https://evil.example/x.js", "\u202egnp.exe \u2028 \U0001f600 \u00e9", "&lt;b&gt; &amp;amp;",
    "</title></style><style>*{display:none}",
]


class Page(HTMLParser):
    """The page's tags, attributes and text; fails on a tag that is closed in the wrong place."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def list_cards(self) -> list[list[str]]:
        return [attributes["data-tags"].split() for tag, attributes in self.tags if tag == "article"]

    def count_tags(self) -> Counter[str]:
        """Without the tags of single scores: a text without a word has fewer scores."""
        return Counter(tag for tag, _ in self.tags if tag not in ("li", "b"))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def render(tmp_path: Path, **fields) -> str:
    config = make_config(tmp_path)
    results = make_results(config, **fields)
    return render_page(config.prompt, results, make_summary(config, results))


def render_texts(tmp_path: Path, text: str) -> str:
    """A page on which a question, a source, a category, both answers and an error say `text`."""
    config = make_config(tmp_path)
    examples = [make_example(config, number) for number in range(8)]
    evil = {"question": text, "category": text, "output": text, "instruction": text * 3}
    span = examples[0].context[0].model_copy(update={"source": text, "start": 0, "end": len(text)})
    examples[0] = examples[0].model_copy(update={**evil, "context": (span,)})
    examples[1] = examples[1].model_copy(update={**evil, "question": "", "context": ()})
    base, tuned = ([make_answer(example.id, side, text) for example in examples] for side in ("base", "tuned"))
    tuned[2] = make_answer("row-2", "tuned", error=text)
    results = compare_answers(config, examples, {"base": base, "tuned": tuned}, WordEmbedder())
    return render_page(config.prompt, results, make_summary(config, results))


def test_first_screen_says_it_all(tmp_path: Path) -> None:
    page = Page(render(tmp_path))
    text = " ".join(" ".join(page.texts).split())
    first = text[: text.index("All metrics")]
    for part in (
        "Tuned is better", "reference similarity", "named in config.yaml before the run", "excludes zero", "Failed calls",
        "gguf/hybridrag-phi4mini-q4_k_m.gguf", "2026-11-23 10:15 UTC", "num_ctx 4096", "from 12 source documents",
    ):
        assert part in first, part
    assert page.count("article") == 36


def test_no_difference_is_said(tmp_path: Path) -> None:
    html = render(tmp_path, same=True)
    assert "<h1>No measurable difference</h1>" in html and "nan" not in html.lower()


def test_without_texts_the_page_holds_figures_alone(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    results = make_results(config)
    summary = make_summary(config, results)
    html = render_page(config.prompt, results, summary, texts=False)
    page, texts = Page(html), [example.instruction for example in results.examples]
    texts += [answer.text for side in results.answers.values() for answer in side]
    assert not any(line in html for text in texts for line in text.splitlines() if len(line) > 20)
    assert not any(topic in html for topic in TOPICS)
    assert "python -m distill.encryption show" in html and not page.list_cards() and not page.count("script")
    assert "Tuned is better" in html and "RF Engineering" in html


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(tmp_path: Path, text: str) -> None:
    harmless, hostile = Page(render_texts(tmp_path, "plain")), Page(render_texts(tmp_path, text))
    assert hostile.count_tags() == harmless.count_tags()
    assert not [name for _, attributes in hostile.tags for name in attributes if name.startswith("on")]
    assert any(text in part for part in hostile.texts)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_text_leaves_the_structure_alone(tmp_path: Path, text: str) -> None:
    assert Page(render_texts(tmp_path, text)).count("script") == 1


def test_refers_to_nothing_outside(tmp_path: Path) -> None:
    html = render_texts(tmp_path, "https://evil.example/a.png")
    page = Page(html)
    assert not page.count("link") and not page.count("img") and not page.count("iframe")
    assert not {"src", "action", "srcset", "style"} & {name for _, attributes in page.tags for name in attributes}
    # The one link leads to the folder beside it.
    links = [attributes["href"] for _, attributes in page.tags if "href" in attributes]
    assert links == ["../gguf/verification.json"]
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style


def test_policy_lets_only_our_own_style_and_script_through(tmp_path: Path) -> None:
    html = render(tmp_path)
    policy = next(attributes["content"] for tag, attributes in Page(html).tags if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for tag in ("style", "script"):
        assert hash_inline(re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]) in policy


def test_what_cannot_be_measured_is_said_and_not_shown_as_0(tmp_path: Path) -> None:
    config = make_config(tmp_path, 'prompt:\n  citation: ""\n  refusal: ""\n')
    examples = [make_example(config, number) for number in range(8)]
    answers = {side: [make_answer(example.id, side, "It is 3 units.") for example in examples] for side in ("base", "tuned")}
    results = compare_answers(config, examples, answers, WordEmbedder())
    summary = make_summary(config, results)
    assert summary["metrics"]["citation_match"] is None and summary["metrics"]["refusal_right"] is None
    assert summary["refusals"] is None
    text = " ".join(" ".join(Page(render_page(config.prompt, results, summary)).texts).split())
    assert text.count("not measured: prompt.citation is empty") == 2
    assert text.count("not measured: prompt.refusal is empty") == 1
    assert "Not measured: prompt.refusal is empty." in text and "Wrongly refused" not in text


def test_what_can_be_measured_is_not_called_unmeasured(tmp_path: Path) -> None:
    text = " ".join(Page(render(tmp_path)).texts)
    assert "ot measured" not in text and "Wrongly refused" in text


def test_cards_carry_the_filters(tmp_path: Path) -> None:
    cards = Page(render_texts(tmp_path, "plain")).list_cards()
    assert "failed" in cards[2] and not {"tuned", "base", "same"} & set(cards[2])
    assert all("same" in tags for number, tags in enumerate(cards) if number != 2)
    refused = Page(render(tmp_path)).list_cards()
    assert "refused" in refused[5] and "refused" not in refused[4]


@pytest.mark.parametrize(("value", "expected"), [(0.0, "0.000"), (-0.0001, "0.000"), (0.1, "+0.100"), (-1.0, "-1.000")])
def test_signed_figures(value: float, expected: str) -> None:
    assert format_signed(value) == expected


@pytest.mark.parametrize("values", [(0.0, 0.0, 0.0), (0.02, 0.05, 0.08), (-0.9, -0.7, -0.4), (0.6, 1.0, 1.0)])
def test_plot_holds_every_interval(values: tuple[float, float, float]) -> None:
    low, mean, high = values
    comparison = Comparison(9, 9, 0, 0, mean, (low, high), 1, 1, 1)
    plot = Plot([comparison, None], 0.02)
    assert -plot.width / 2 < plot.x(low) <= plot.x(mean) <= plot.x(high) < plot.width / 2
    assert plot.tone(comparison) == ("flat" if low <= 0 <= high else "up" if low > 0 else "down")


BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(not BROWSER, reason="no Chromium here; CHROMIUM=path names one")
def test_loads_in_a_browser_without_an_error(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_texts(tmp_path, HOSTILE[0] + HOSTILE[3]), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
               "--enable-logging=stderr", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, encoding="utf-8")
    assert "8 of 8 shown" in done.stdout and "<title>owned" not in done.stdout  # the script ran, the text did not
    assert "CONSOLE" not in done.stderr
