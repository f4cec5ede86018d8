"""The page says what the figures say, asks nobody for anything, and lets no text of a model act."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.cases.case_set import CaseSet, Source
from distill.records import Answer
from distill.report.page import format_signed, format_stamp, hash_inline, render_page
from distill.report.page_cards import make_cards, make_marks
from distill.report.page_figures import Axis, divide, tone
from distill.report.page_story import (
    count_failures,
    describe_general,
    describe_memory,
    describe_others,
    explain_interval,
    list_checks,
)
from tests.report.answers import make_config
from tests.report.worlds import PARTS, make_sets, make_world

VOID = {"meta", "input", "br", "rect", "line", "circle", "col"}
HOSTILE = [
    "<script>document.title='owned'</script>", "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)>", "' onmouseover='alert(1)", "javascript:alert(1)", "{{ 7 * 7 }} {% raw %}", "<!-- -->]]>",
    "https://evil.example/x.js", "\u202egnp.exe \u2028 \U0001f600 \u00e9", "&lt;b&gt; &amp;amp;",
    "</title></style><style>*{display:none}", "</mark></div></article><dialog open>", "[Source 1]<b>[Source 99]",
]
FAST = "evaluate:\n  bootstrap_samples: 100\n"


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

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def list_cards(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "article"]

    def count_tags(self) -> Counter[str]:
        """Without what marks words and citations: that is made of the text."""
        made = ("cite", "cite unknown")
        return Counter(tag for tag, attributes in self.tags if tag != "mark" and attributes.get("class") not in made)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


def render(folder: Path, *, texts: bool = True, summary_changes: dict | None = None, **fields: object) -> str:
    config = make_config(folder, FAST)
    results, summary = make_world(config, **fields)
    return render_page(config.prompt, results, {**summary, **(summary_changes or {})}, texts=texts)


@cache
def render_whole(folder: Path) -> str:
    return render(folder)


def poison(text: str) -> dict[str, object]:
    """Ways to put a text wherever a model or a document can."""

    def change(cases: CaseSet) -> CaseSet:
        first, second, *rest = cases.questions
        evil = {"category": text, "reference": text, "messages": ({"role": "user", "content": text * 3},), "id": text}
        first = replace(first, text=text, sources=(Source(text, text),), **evil)
        second = replace(second, text="", sources=(), **{**evil, "id": f"{text} 2"})
        return replace(cases, questions=[first, second, *rest])

    def say(number: int, answer: Answer) -> Answer:
        if number == 3:
            return replace(answer, text="", error=text)
        return replace(answer, text=f"{text} {answer.side}") if number < 6 else answer

    return {"change": change, "say": say, "failed": (), "count": 12}


# -----------------------------------------------------------------------------
# The first page


def test_first_page_says_it_all(folder: Path) -> None:
    text = Page(render_whole(folder)).text
    first = text[: text.index("All measures")]
    for part in (
        "Tuned is better", "59 questions", "of 1", "its own base", "too small to matter", "wholly right of zero",
        "excludes zero", "Before you believe it", "Some calls failed: 1 of 146", "Compared with its own base",
        "Judge prefers 27 : 14",
        "People prefer 22 : 8", "written down before the first question", "2026-11-23 10:15 UTC",
    ):
        assert part in first, part


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"lift": -0.15, "failed": ()}, ("Tuned is worse", "wholly left of zero", "Worse on", "Every call got an answer")),
        ({"lift": 0.0, "failed": ()}, ("No measurable difference", "may be chance", "is measurably worse")),
        ({"sides": ("tuned",)}, ("No control: the base is missing", "nobody can tell", "of the tuned model alone")),
    ],
)
def test_every_verdict_has_its_words(folder: Path, fields: dict, parts: tuple[str, ...]) -> None:
    html = render(folder, **fields)
    text = Page(html).text
    assert all(part in text[: text.index("All measures")] for part in parts)
    body = re.search(r"<main.*</main>", html, re.DOTALL)[0]
    assert not re.search(r">\s*(nan|None|Undefined)\b(?! of)", body)


def test_a_missing_control_is_the_first_line_and_nothing_is_compared(folder: Path) -> None:
    html = render(folder, sides=("tuned", "stock"))
    page = Page(html)
    checks = list_checks(make_world(make_config(folder, FAST), sides=("tuned", "stock"))[1])
    assert (checks[0].kind, checks[0].level) == ("control", "bad")
    assert {check.kind for check in checks}.isdisjoint({"worse", "forgot"})
    assert "<h4>Base" not in html and not any("data-votable" in card for card in page.list_cards())
    assert "In use today" in html


def test_warnings_come_before_what_is_in_order() -> None:
    told = [{"kind": "memorised", "level": "warn", "text": "a"}, {"kind": "worse", "level": "bad", "text": "b"}]
    figures = {"pairs": 12, "groups": 12, "base": 0.5, "tuned": 0.6, "p_holm": 0.5}
    summary = {
        "verdict": "better", "confidence": 0.95, "first_page": told, "metrics": {"x": figures},
        "sets": {"general": {"primary": "right", "metrics": {"right": figures}}},
    }
    checks = list_checks(summary)
    assert [(check.kind, check.level) for check in checks] == [
        ("worse", "bad"), ("memorised", "warn"), ("control", "good"), ("failures", "good"), ("forgot", "good"),
    ]
    assert "60% of 12 general questions right, base 50%" in checks[-1].text


@pytest.mark.parametrize(("base", "level"), [(0.0, "info"), (0.05, "info"), (0.06, "good"), (0.7, "good")])
def test_a_base_that_knows_nothing_shows_nothing_about_forgetting(base: float, level: str) -> None:
    check = describe_general({"primary": "right", "metrics": {"right": {"pairs": 100, "base": base, "tuned": 0.0}}})
    assert (check.kind, check.level) == ("forgot", level) and ("nothing to forget" in check.text) == (level == "info")


def test_a_handful_of_general_questions_shows_nothing_about_forgetting() -> None:
    check = describe_general({"primary": "right", "metrics": {"right": {"pairs": 5, "base": 1.0, "tuned": 0.0}}})
    assert check.level == "info" and "nobody can tell" in check.text


@pytest.mark.parametrize(("training", "planted", "level", "text"), [
    (40, 4, "good", "40 strings were tried; of all such it completes at most 7%. Of 4 planted ones it gives away 0."),
    (40, 0, "good", "40 strings were tried; of all such it completes at most 7%."),
    (0, 4, "info", "Nobody tried whether it learnt strings of its training rows by heart. Of 4 planted ones it gives away 0."),
])
def test_what_was_tried_of_the_training_strings_is_said(training: int, planted: int, level: str, text: str) -> None:
    counts = {"training": {"n": training, "tuned": 0}, "canary": {"n": planted, "tuned": 0}}
    notes = {"counts": counts, "at_most": 0.07 if training else None, "finding": "nothing"}
    check = describe_memory({"notes": notes})
    assert check.level == level and check.text.endswith(text)
    if training:
        assert describe_memory({"notes": {**notes, "finding": "too few"}}).level == "info"


@pytest.mark.parametrize(("groups", "level", "text"), [
    ([9, 8], "good", "None of the 2 other measures that count is measurably worse."),
    ([9, 5], "good", "None of the 1 other measures that count is measurably worse. 1 had too few documents."),
    ([5, 5], "info", "With fewer than 6 documents nobody can tell whether anything got worse."),
    ([], "info", "With fewer than 6 documents nobody can tell whether anything got worse."),
])
def test_nothing_worse_is_fine_only_where_it_could_have_been_seen(groups: list[int], level: str, text: str) -> None:
    metrics = {f"m{n}": {"p_holm": 1.0, "groups": count} for n, count in enumerate(groups)}
    check = describe_others({"confidence": 0.95, "metrics": {"primary": {"p_holm": None}, "none": None, **metrics}})
    assert (check.level, check.text) == (level, text)


def test_many_warnings_of_a_kind_are_folded_and_none_is_lost() -> None:
    told = [{"kind": "worse", "level": level, "text": f"w{n}"} for n, level in enumerate(("warn", "bad", "bad", "warn"))]
    told += [{"kind": "smoke", "level": "warn", "text": text} for text in ("s0", "s1")]
    checks = list_checks({"verdict": "no control", "first_page": told, "metrics": {}, "sets": {}})
    assert [(check.text, check.rest) for check in checks[:3]] == [("w1", ("w2", "w0", "w3")), ("s0", ()), ("s1", ())]


def test_failures_are_counted_over_all_sets() -> None:
    sets = {"general": {"failures": {"base": 2, "tuned": 1}}, "memory": {"failures": {"tuned": 3}}}
    assert count_failures({"failures": {"base": 1, "tuned": 0}, "sets": sets}) == {"base": 3, "tuned": 4}


def test_what_was_not_looked_at_is_said() -> None:
    summary = {"verdict": "better", "first_page": [], "metrics": {}, "sets": {}, "confidence": 0.95}
    checks = {check.kind: check for check in list_checks(summary)}
    assert checks["forgot"].level == checks["memorised"].level == "info"
    assert "not asked" in checks["forgot"].text and "Nobody tried" in checks["memorised"].text


@pytest.mark.parametrize(
    ("difference", "interval", "higher", "expected"),
    [
        (0.2, (0.1, 0.3), True, "wholly right"), (-0.2, (-0.3, -0.1), True, "wholly left"),
        (0.1, (-0.1, 0.3), True, "may be chance"), (0.0, (0.0, 0.0), True, "may be chance"),
        (0.02, (0.01, 0.03), True, "too small to matter"), (0.2, None, True, "one document"),
        (-0.2, (-0.3, -0.1), False, "wholly right"), (None, None, True, ""),
    ],
)
def test_the_interval_in_one_sentence(difference: float | None, interval: tuple | None, higher: bool, expected: str) -> None:
    figures = {"difference": difference, "interval": interval, "higher_is_better": higher, "groups": 6}
    summary = {"metrics": {"m": figures}, "primary_metric": "m", "smallest_difference": 0.05, "confidence": 0.95}
    told = explain_interval(summary)
    assert expected in told and bool(told) == bool(expected)


def test_an_interval_of_too_few_documents_proves_nothing() -> None:
    figures = {"difference": 0.3, "interval": (0.29, 0.31), "groups": 5}
    summary = {"metrics": {"m": figures}, "primary_metric": "m", "smallest_difference": 0.05, "confidence": 0.95}
    assert "too few for a verdict" in explain_interval(summary) and "more than chance" not in explain_interval(summary)


def test_no_score_at_all_is_said(folder: Path) -> None:
    html = render(folder, say=lambda number, answer: replace(answer, text="", error="down"))
    assert "No question has a score" in html and "applies to no question" in html


# -----------------------------------------------------------------------------
# Figures


def test_every_part_of_the_evaluation_has_its_place(folder: Path) -> None:
    page = Page(render_whole(folder))
    headings = {attributes["id"] for _, attributes in page.tags if attributes.get("id", "").endswith("-title")}
    names = {"metrics", "categories", "refusals", "speed", "judge", "votes", "answers", "method", "set-1", "set-2", "set-3"}
    assert {f"{name}-title" for name in names} <= headings
    targets = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a" and attributes["href"].startswith("#")}
    assert targets <= {attributes.get("id") for _, attributes in page.tags}
    for part in ("less is better", "Golden score by type", "injection", "Planted codes", "3 more on answers"):
        assert part in page.text, part


def test_a_single_other_metric_that_is_not_measured_is_not_shown_as_0(folder: Path) -> None:
    def forget(cases: CaseSet) -> CaseSet:
        score, names = cases.score, {"citation_match"} & cases.measures.keys()
        return replace(cases, score=lambda answers: [row | dict.fromkeys(names) for row in score(answers)])

    reasons = {"citation_match": "prompt.citation is empty", "refusal_right": "prompt.refusal is empty"}
    changes = {"not_measured": reasons, "refusals": None}
    text = Page(render(folder, change=forget, summary_changes=changes)).text
    assert "not measured: prompt.citation is empty" in text and "Not measured: prompt.refusal is empty." in text


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, "0.000"), (-0.0001, "0.000"), (0.1, "+0.100"), (-1.0, "\u22121.000"), (None, "-")]
)
def test_signed_figures(value: float | None, expected: str) -> None:
    assert format_signed(value) == expected


def test_a_time_for_people() -> None:
    assert format_stamp("2026-11-23T10:15:00+00:00") == "2026-11-23 10:15 UTC"


@pytest.mark.parametrize("values", [(0.0, 0.0, 0.0), (0.02, 0.05, 0.08), (-0.9, -0.7, -0.4), (0.6, 1.0, 1.0)])
@pytest.mark.parametrize("higher", [True, False])
def test_the_axis_holds_every_interval_with_good_to_the_right(values: tuple[float, float, float], higher: bool) -> None:
    low, mean, high = values
    figures = {"difference": mean, "interval": (low, high), "higher_is_better": higher}
    axis = Axis([figures, None, {"difference": None}], 0.02)
    assert 0 < axis.at(low) <= axis.at(mean) <= axis.at(high) < 100 and axis.at(0) == 50
    assert axis.end >= max(map(abs, values))
    expected = "flat" if low <= 0 <= high else "up" if (low > 0) == higher else "down"
    assert tone(figures) == expected


def test_a_bar_is_divided_without_rest() -> None:
    pieces = divide(("a", 1, "up"), ("b", 0, "flat"), ("c", 2, "down"))
    assert sum(piece.width for piece in pieces) == pytest.approx(100, abs=0.05) and pieces[2].start == pytest.approx(33.33)
    assert divide(("a", 0, "up")) == []


# -----------------------------------------------------------------------------
# The reader


def test_cards_carry_filters_and_figures(folder: Path) -> None:
    cards = Page(render_whole(folder)).list_cards()
    assert len(cards) == 60 + 20 + 30 and [card["data-set"] for card in cards][::59][:2] == ["heldout", "heldout"]
    assert cards[2]["data-tags"] == "failed" and "data-votable" not in cards[2] and cards[2]["data-gain"] == ""
    for card in cards:
        gain = float(card["data-gain"] or 0)
        assert ("improved" in card["data-tags"]) == (gain > 0) and ("worse" in card["data-tags"]) == (gain < 0)
    assert "refused" in cards[5]["data-tags"] and "refused" not in cards[4]["data-tags"]
    assert not any("data-votable" in card for card in cards if card["data-set"] == "general")


def test_a_mark_is_green_where_tuned_is_better_also_where_less_is(folder: Path) -> None:
    cases = make_sets(1, 0.0)[0]
    base, tuned = {"correctness": 0.5, "wrong_refusal": 1.0, "grounding": 0.5}, {"correctness": 0.2, "wrong_refusal": 0.0}
    chosen = replace(cases, measures={name: replace(m, decides=True) for name, m in cases.measures.items()})
    assert {mark.name: mark.tone for mark in make_marks(chosen, {"base": base, "tuned": tuned})} == {
        "correctness": "down", "wrong_refusal": "up", "grounding": "flat",
    }


def test_an_answer_stands_on_the_page_letter_by_letter(folder: Path) -> None:
    config = make_config(folder, FAST)
    odd = "  Two  blanks,\n\n\ta tab [Source 2], [source 1, 3] and [Source 7].\n- a < b & c\n"
    results, summary = make_world(config, say=lambda number, answer: replace(answer, text=f"{odd}{answer.side}"), failed=())
    html = render_page(config.prompt, results, summary)
    said = re.search(r'data-side="tuned".*?<div class="text said">(.*?)</div>', html, re.DOTALL)[1]
    assert "".join(Page(f"<p>{said}</p>").texts) == f"{odd}tuned"
    assert 'href="#s1-2" data-source="2">[Source 2]</a>' in said and 'data-source="1">[source 1, 3]</a>' in said
    assert 'class="cite unknown" title="no source has this number">[Source 7]' in said and "<mark>tuned</mark>" in said


def test_without_texts_the_page_holds_figures_alone(folder: Path) -> None:
    config = make_config(folder, FAST)
    results, summary = make_world(config)
    html = render_page(config.prompt, results, summary, texts=False)
    page, texts = Page(html), [question.text for cases in results.sets.values() for question in cases.questions]
    texts += [answer.text for answers in results.answers.values() for answer in answers]
    texts += [source.text for question in results.sets["heldout"].questions for source in question.sources]
    assert not any(line in html for text in texts for line in text.splitlines() if len(line) > 12)
    assert not any(part in html for part in PARTS) and "manual_" not in html
    assert "python -m distill.encryption show" in html
    assert not page.list_cards() and not page.count("script") and not page.count("dialog")
    assert "Tuned is better" in html and "RF Engineering" in html


def test_cards_of_a_prompt_without_question_and_sources_show_the_prompt(folder: Path) -> None:
    config = make_config(folder, FAST)
    results, _ = make_world(config, **poison("plain words"))
    first, second = make_cards(config.prompt, results)[:2]
    assert first.sources == [("plain words", "plain words")] and first.prompt == ""
    assert second.text == "plain words" * 3 and second.sources == [] and second.prompt == ""


# -----------------------------------------------------------------------------
# Nothing acts


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(folder: Path, text: str) -> None:
    harmless, hostile = Page(render(folder, **poison("plain"))), Page(render(folder, **poison(text)))
    assert hostile.count_tags() == harmless.count_tags()
    assert not [name for _, attributes in hostile.tags for name in attributes if name.startswith("on")]
    assert text in "".join(hostile.texts)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1, max_size=40))
def test_any_text_leaves_the_structure_alone(folder: Path, text: str) -> None:
    html = render(folder, **poison(text))
    assert Page(html).count("script") == 1 and html.encode("utf-8")


def test_refers_to_nothing_outside(folder: Path) -> None:
    html = render(folder, **poison("https://evil.example/a.png"))
    page = Page(html)
    tags = {tag for tag, attributes in page.tags if attributes.get("method") != "dialog"}
    names = {name for _, attributes in page.tags for name in attributes}
    assert not {"link", "img", "iframe", "object", "embed", "form"} & tags
    assert not {"src", "action", "srcset", "style", "formaction", "ping"} & names
    # The one link that leaves the page leads to the folder beside it.
    links = {attributes["href"] for _, attributes in page.tags if "href" in attributes}
    assert {link for link in links if not re.fullmatch(r"#[\w-]+", link)} == {"../gguf/verification.json"}
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style


def test_policy_lets_only_our_own_style_and_script_through(folder: Path) -> None:
    html = render_whole(folder)
    policy = next(attributes["content"] for _, attributes in Page(html).tags if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for tag in ("style", "script"):
        assert hash_inline(re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]) in policy


def test_the_script_makes_no_markup_of_text() -> None:
    from distill.report.page import ASSETS, SCRIPTS

    script = "".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "fetch(", "srcdoc"):
        assert word not in script, word
    assert {path.name for path in ASSETS.glob("*.js")} == set(SCRIPTS)
