"""The page in a real Chromium, opened from disk: quiet, usable by keyboard alone, fast with a thousand questions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distill.cases.case_set import CaseSet, Source
from distill.records import Answer
from distill.report.votes import count_votes, load_votes, require_same_models
from tests.report.answers import make_config
from tests.report.browser import Visit, find_browser, start_browser, take_screenshot
from tests.report.test_page import HOSTILE, poison
from tests.report.worlds import make_conditions, make_world, write_world

pytestmark = pytest.mark.skipif(not find_browser(), reason="no Chromium here; CHROMIUM=path names one")
pytest.importorskip("playwright")
NO_STORAGE = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('denied', 'SecurityError'); }});"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with start_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("browser"))


@pytest.fixture
def visit(browser, report: Path) -> Iterator[Visit]:
    """A visit that must have been quiet."""
    visit = Visit(browser, report)
    yield visit
    visit.require_quiet()
    visit.close()


def count_shown(visit: Visit) -> int:
    return visit.page.locator("article:visible").count()


def focused(visit: Visit) -> str:
    return visit.page.evaluate("document.activeElement.id")


def press(visit: Visit, *keys: str) -> None:
    for key in keys:
        visit.page.keyboard.press(key)


# -----------------------------------------------------------------------------
# Quiet


def test_opens_without_an_error_or_a_request(visit: Visit) -> None:
    assert visit.page.inner_text("#count") == "110 of 110 shown" and count_shown(visit) == 110


@pytest.mark.parametrize("text", [HOSTILE[0] + HOSTILE[3], HOSTILE[2] + HOSTILE[1], HOSTILE[12] + HOSTILE[8], HOSTILE[4]])
def test_hostile_text_does_nothing(browser, tmp_path: Path, text: str) -> None:
    visit = Visit(browser, write_world(tmp_path, **poison(text)))
    title = visit.page.title()
    visit.page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    press(visit, "v", "2", "1", "o", "Escape", "j", "o")
    visit.page.select_option("#category", text)
    visit.page.fill("#search", text)
    visit.page.wait_for_timeout(100)
    assert visit.page.title() == title.strip() and count_shown(visit) >= 1
    assert visit.page.evaluate("document.querySelectorAll('script, img, iframe, svg[onload]').length") == 1
    visit.require_quiet()
    visit.close()


@pytest.mark.parametrize("fields", [{"sides": ("tuned",)}, {"texts": False}, {"sides": ("base", "tuned"), "opinions": False}])
def test_every_shape_of_evaluation_opens_quietly(browser, tmp_path: Path, fields: dict) -> None:
    visit = Visit(browser, write_world(tmp_path, **fields))
    assert visit.page.locator("h1").is_visible()
    votable = "base" in fields.get("sides", ("base",)) and fields.get("texts", True)
    assert visit.page.locator("[data-open-ballot]:visible").count() == 2 * votable
    press(visit, "v")
    assert visit.page.locator("#ballot[open]").count() == votable
    visit.require_quiet()
    visit.close()


@pytest.mark.parametrize("size", [(1280, 720), (1440, 900), (400, 800), (820, 1100)])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_runs_over_the_side_and_the_verdict_is_in_view(browser, report: Path, size: tuple, dark: bool) -> None:
    visit = Visit(browser, report, size, color_scheme="dark" if dark else "light")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    bottom = "dl.tiles" if size[0] > 1000 else ".hero-line"
    box = visit.page.locator(bottom).bounding_box()
    assert box["y"] + box["height"] <= size[1]
    visit.close()


def test_the_verdict_is_in_view_with_every_warning_there_is(browser, tmp_path: Path) -> None:
    visit = Visit(browser, write_world(tmp_path, lift=-0.15))
    box = visit.page.locator(".front").bounding_box()
    assert box["y"] + box["height"] <= 720 and visit.page.locator(".checks > li.bad").count() >= 2
    visit.page.click(".checks summary")
    assert visit.page.locator(".checks details li:visible").count() >= 3
    visit.close()


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(browser, report: Path, dark: bool) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 at least, of every text that is shown on a ground of one colour."""
    visit = Visit(browser, report, color_scheme="dark" if dark else "light")
    weak = visit.page.evaluate("""() => {
      const parse = (text) => text.match(/[\\d.]+/g).map(Number);
      const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
      const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
      const ground = (element) => {
        const color = parse(getComputedStyle(element).backgroundColor);
        return color.length < 4 || color[3] > 0 ? color : ground(element.parentElement);
      };
      const weak = new Set();
      for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!own || !element.checkVisibility() || element.closest("svg, script, dialog, [disabled]")) continue;
        const a = light(parse(getComputedStyle(element).color)), b = light(ground(element));
        const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (contrast < 4.5) weak.add(`${element.tagName}.${element.className} ${contrast.toFixed(2)}`);
      }
      return [...weak];
    }""")
    assert weak == []
    visit.close()


# -----------------------------------------------------------------------------
# The reader


def test_filters_show_what_they_count(visit: Visit) -> None:
    for button in visit.page.locator("#filters button").all():
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        assert count_shown(visit) == int(button.locator("small").inner_text())
    assert visit.page.locator("#filters [aria-pressed=true]").count() == 1


def test_set_and_category_narrow_the_counts(visit: Visit) -> None:
    visit.page.select_option("#set", "golden")
    assert count_shown(visit) == 20 and visit.page.inner_text("#filters button:first-child small") == "20"
    visit.page.select_option("#category", "injection")
    assert count_shown(visit) == 4
    visit.page.click("[data-filter=failed]")
    assert count_shown(visit) == 0 and visit.page.locator("#nothing").is_visible()
    visit.page.click("#clear")
    assert count_shown(visit) == 110 and visit.page.input_value("#set") == ""


def test_search_finds_words_in_any_order_in_closed_sources_too(visit: Visit) -> None:
    visit.page.fill("#search", "DEPOT unit\t131")
    assert count_shown(visit) == 1 and "131" in visit.page.locator("article:visible").text_content()
    visit.page.fill("#search", "no such word anywhere")
    assert count_shown(visit) == 0


def test_order_puts_the_largest_loss_first_and_failed_ones_last(visit: Visit) -> None:
    for order, sign in (("losses", 1), ("gains", -1)):
        visit.page.select_option("#order", order)
        gains = visit.page.eval_on_selector_all("article", "all => all.map((card) => parseFloat(card.dataset.gain))")
        known = [gain for gain in gains if gain == gain]
        assert known == sorted(known, key=lambda gain: sign * gain) and gains[-1] != gains[-1]
    visit.page.select_option("#order", "asked")
    assert visit.page.locator("article").first.get_attribute("id") == "q1"


def test_a_citation_opens_its_source(visit: Visit) -> None:
    link = visit.page.locator("a.cite:visible").first
    number = link.get_attribute("data-source")
    link.click()
    assert focused(visit).endswith(f"-{number}") and visit.page.locator("article .source:visible").count() == 3


def test_an_address_of_a_question_shows_it_whatever_the_filters_say(visit: Visit) -> None:
    visit.page.click("[data-filter=failed]")
    visit.page.evaluate("location.hash = '#q40'")
    visit.page.wait_for_function("document.activeElement.id === 'q40'")
    assert count_shown(visit) == 110


def test_the_reader_works_by_keyboard_alone(visit: Visit) -> None:
    press(visit, "j")
    assert focused(visit) == "q1"
    press(visit, "j", "j", "k", "o")
    assert focused(visit) == "q2" and visit.page.locator("#q2 .sources").get_attribute("open") is not None
    box = visit.page.locator("#q2").bounding_box()
    tools = visit.page.locator("#tools").bounding_box()
    assert tools["y"] + tools["height"] <= box["y"] + 16
    press(visit, "o", "d")
    assert visit.page.locator("#q2 .sources").get_attribute("open") is None
    ground = "getComputedStyle(document.querySelector('#cards mark')).backgroundColor"
    assert visit.page.evaluate(ground) == "rgba(0, 0, 0, 0)"
    press(visit, "d")
    assert visit.page.evaluate(ground) != "rgba(0, 0, 0, 0)"
    press(visit, "/")
    visit.page.keyboard.type("duplexer jk")
    assert focused(visit) == "search" and count_shown(visit) == 0  # letters are letters there
    press(visit, "Escape")
    assert count_shown(visit) == 110 and focused(visit) != "search"
    press(visit, "?")
    assert visit.page.locator("#help").is_visible()
    press(visit, "j", "Escape")
    assert not visit.page.locator("#help").is_visible()
    press(visit, "k", "k", "k")
    assert focused(visit) == "q1"


def test_tab_reaches_the_tools(visit: Visit) -> None:
    reached = set()
    for _ in range(60):
        press(visit, "Tab")
        reached.add(visit.page.evaluate("document.activeElement.id || document.activeElement.dataset.filter || ''"))
    assert {"improved", "refused", "set", "category", "order", "search", "differences", "help-button"} <= reached


def test_the_print_has_no_tools_and_no_shortened_answers(visit: Visit) -> None:
    visit.page.emulate_media(media="print")
    assert not visit.page.locator("#tools").is_visible() and not visit.page.locator("nav").is_visible()
    assert visit.page.evaluate("getComputedStyle(document.querySelector('.said')).maxHeight") == "none"
    assert len(visit.page.pdf()) > 10_000


# -----------------------------------------------------------------------------
# Voting


def export(visit: Visit, path: Path) -> dict:
    with visit.page.expect_download() as started:
        visit.page.click("#export")
    assert started.value.suggested_filename == "votes.json"
    started.value.save_as(path)
    return json.loads(path.read_text(encoding="utf-8"))


def test_voting_by_keyboard_ends_in_an_export_that_is_counted(browser, tmp_path: Path) -> None:
    visit = Visit(browser, write_world(tmp_path))
    press(visit, "v")
    total = visit.page.locator("article[data-votable]").count()
    shown = []
    for number in range(total):
        shown.append((visit.page.inner_text("#ballot-question"), visit.page.inner_text("#left-answer")))
        assert visit.page.inner_text("#progress-text") == f"{number} of {total} voted"
        press(visit, "123"[number % 3])
    assert visit.page.locator("#ballot-done").is_visible() and len({question for question, _ in shown}) > 40
    path = tmp_path / "votes.json"
    content = export(visit, path)
    asked = visit.page.eval_on_selector_all("article[data-votable]", "all => all.map((card) => card.dataset.id)")
    visit.require_quiet()
    visit.close()

    ballot = load_votes(path)
    models = make_conditions(("base", "tuned"))["models"]
    require_same_models(path, ballot, {side: model["sha256"] for side, model in models.items()})
    results, _ = make_world(make_config(tmp_path))
    counted = count_votes([ballot], list(results.sets.values()), results.answers)
    assert counted["votes"] == total and counted["stale"] == 0 and counted["voters"] == 1
    for place, vote in enumerate(content["votes"]):
        sides = (vote["left"], "tuned" if vote["left"] == "base" else "base", "tie")
        assert vote["vote"] == sides[place % 3]
        said = {answer.example_id: answer.text for answer in results.answers[vote["set"], vote["left"]]}
        assert said[vote["id"]] == shown[place][1]  # what was chosen is what stood there
    lefts = [vote["left"] for vote in content["votes"]]
    assert 0.25 < lefts.count("tuned") / total < 0.75
    voted = [vote["id"] for vote in content["votes"]]
    assert sorted(voted) == sorted(asked) and sum(a == b for a, b in zip(voted, asked)) < total / 4
    assert not any(key in path.read_text(encoding="utf-8") for key in ("rated", "manual"))


def test_the_ballot_does_not_tell_the_sides_apart(visit: Visit) -> None:
    press(visit, "v")
    for _ in range(12):
        html = visit.page.inner_html("#ballot-body").lower()
        assert not any(word in html for word in ("tuned", "base", "data-side", "sha256", "correctness", "#s"))
        styles = visit.page.eval_on_selector_all("#ballot .reply", "all => all.map((e) => getComputedStyle(e).borderTopColor)")
        assert styles[0] == styles[1]
        names = visit.page.eval_on_selector_all("[id]", "all => all.map((element) => element.id)")
        assert len(set(names)) == len(names)
        press(visit, "s")


def test_votes_outlive_a_reload_and_can_be_changed(visit: Visit) -> None:
    press(visit, "v", "1", "2")
    visit.page.reload()
    press(visit, "v")
    assert visit.page.inner_text("#progress-text").startswith("2 of ") and not visit.page.locator("#ballot-note").is_visible()
    press(visit, "b")
    assert visit.page.locator("[data-choice=right]").get_attribute("aria-pressed") == "true"
    press(visit, "3", "b")
    assert visit.page.locator("[data-choice=tie]").get_attribute("aria-pressed") == "true"
    assert visit.page.inner_text("#progress-text").startswith("2 of ")


def test_a_new_voter_gets_other_sides_and_no_votes(visit: Visit) -> None:
    visit.page.on("dialog", lambda dialog: dialog.accept())
    sides = "votable.map(leftOf).join()"
    press(visit, "v", "1")
    before = visit.page.evaluate(sides)
    visit.page.reload()
    assert visit.page.evaluate(sides) == before
    press(visit, "v")
    visit.page.click("#restart")
    assert visit.page.inner_text("#progress-text").startswith("0 of ") and visit.page.evaluate(sides) != before


def test_a_browser_that_keeps_nothing_says_so_and_still_exports(browser, report: Path, tmp_path: Path) -> None:
    visit = Visit(browser, report, script=NO_STORAGE)
    press(visit, "v", "1")
    assert visit.page.locator("#ballot-note").is_visible() and "keeps nothing" in visit.page.inner_text("#ballot-note")
    assert len(export(visit, tmp_path / "votes.json")["votes"]) == 1
    visit.require_quiet()
    visit.close()


@pytest.mark.parametrize("stored", ["", "{", "null", "[]", '{"voter": 1}', '{"voter": "x"}'])
def test_what_is_no_vote_in_the_storage_is_passed_over(browser, report: Path, stored: str) -> None:
    visit = Visit(browser, report)
    visit.page.evaluate("text => localStorage.setItem(STORE, text)", stored)
    visit.page.reload()
    press(visit, "v", "1")
    assert visit.page.inner_text("#progress-text").startswith("1 of ")
    visit.require_quiet()
    visit.close()


def test_a_vote_on_answers_that_changed_is_asked_again(browser, tmp_path: Path) -> None:
    visit = Visit(browser, write_world(tmp_path))
    press(visit, "v", "1", "1")
    write_world(tmp_path, say=lambda number, answer: replace(answer, text=f"{answer.text} Changed."))
    visit.page.reload()
    press(visit, "v")
    kept = int(visit.page.inner_text("#progress-text").split()[0])
    assert kept == visit.page.evaluate("Object.values(ballot.votes).filter((vote) => vote.set === 'golden').length")
    visit.close()


# -----------------------------------------------------------------------------
# A thousand questions


def lengthen(cases: CaseSet) -> CaseSet:
    """Questions whose cards hold about 10,000 characters; the other sets are left out of the way."""
    if cases.name != "heldout":
        return cases
    filler = "The limit holds over the whole life of the unit, at any temperature. " * 35
    return replace(cases, questions=[
        replace(question, sources=tuple(Source(source.name, f"{source.text} {filler}") for source in question.sources))
        for question in cases.questions
    ])


def talk(number: int, answer: Answer) -> Answer:
    words = ("noise", "figure", "limit", "holds", "under", "load", "while", "units", "vary", "with", "drive")
    tail = " ".join(words[(number * step + len(answer.side)) % len(words)] for step in range(200))
    return replace(answer, text=f"{answer.text} {tail}")


def test_a_thousand_large_cards_stay_usable(browser, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    start = time.perf_counter()
    path = write_world(tmp_path, count=1000, change=lengthen, say=talk, sides=("base", "tuned"))
    times = {"make": time.perf_counter() - start}

    def measure(name: str, action) -> None:
        start = time.perf_counter()
        action()
        visit.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        times[name] = time.perf_counter() - start

    start = time.perf_counter()
    visit = Visit(browser, path)
    times["open"] = time.perf_counter() - start
    sizes = visit.page.eval_on_selector_all("[data-set=heldout]", "all => all.map((card) => card.textContent.length)")
    assert len(sizes) == 1000 and min(sizes) > 9_000
    measure("filter", lambda: visit.page.click("[data-filter=worse]"))
    measure("unfilter", lambda: visit.page.click("[data-filter='']"))
    measure("first search", lambda: visit.page.fill("#search", "table 917:"))
    assert count_shown(visit) == 1
    measure("next search", lambda: visit.page.fill("#search", ""))
    measure("sort", lambda: visit.page.select_option("#order", "losses"))
    measure("next card", lambda: press(visit, "Escape", "j"))
    measure("vote", lambda: press(visit, "v", "1"))
    with capsys.disabled():
        print(f"\n1,000 cards, {path.stat().st_size / 1e6:.1f} MB:", ", ".join(f"{k} {v:.2f} s" for k, v in times.items()))
    assert times["open"] < 10 and max(v for k, v in times.items() if k not in ("make", "open")) < 3
    visit.require_quiet()
    visit.close()


def test_screenshots_are_taken(report: Path, tmp_path: Path) -> None:
    take_screenshot(report, tmp_path / "first.png")
    content = (tmp_path / "first.png").read_bytes()
    assert content.startswith(b"\x89PNG") and int.from_bytes(content[16:20], "big") == 1280
