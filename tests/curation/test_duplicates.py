from __future__ import annotations

import random
import time
from itertools import combinations, permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.curation.duplicates import (
    Groups,
    choose_bands,
    find_near_duplicates,
    find_overlaps,
    find_question,
    group_similar,
    make_shingles,
    measure_likeness,
)
from distill.rows.questions import load_questions

ALIKE = [
    ("What is the skip zone?", "what is a skip zone"),
    ("What is the skip zone?", "What is the skip zone ?!"),
    ("Which filters are replaced?", "Which filter is replaced?"),
    ("How is the critical frequency calculated?", "How are critical frequencies calculated?"),
    ("What does the X100 pump deliver at 1,200 rpm?", "What does the X-100 pump deliver at 1200 rpm?"),
    ("What is the limit of 5.0 V?", "What is the limit of 5 V?"),
    ("Why do radio waves bend in the ionosphere?", "Why do radio waves bend in the ionosphere today?"),
    ("What is the MUF of a path?", "what is the muf of a path"),
    ("Which PDF is read by the parser?", "Which PDFs are read by the parser?"),
    ("Why does the power increase?", "Why has the power increased?"),
]
DIFFERENT = [
    ("What is the torque of fastener group A?", "What is the torque of fastener group B?"),
    ("What does the Model X100 pump deliver in service?", "What does the Model X200 pump deliver in service?"),
    ("What happens to the pump after 5 hours of operation?", "What happens to the pump after 50 hours of operation?"),
    ("What happens to the pump at -5 C?", "What happens to the pump at 5 C?"),
    ("Which parts of the log may be changed by operators?", "Which parts of the log may not be changed by operators?"),
    ("What is the maximum supply voltage of the main pump?", "What is the minimum supply voltage of the main pump?"),
    ("What are the duties of a Type II assessor in the field?", "What are the duties of a Type III assessor in the field?"),
    ("How are exceptions handled in C++ programs for radios?", "How are exceptions handled in C programs for radios?"),
    ("What is done before a restart of the pump?", "What is done after a restart of the pump?"),
    ("What is the pump limit?", "What is the valve limit?"),
    ("What is the pump limit?", "Why is the pump limited?"),
    *(
        tuple(f"Which steps, tools and safety precautions does the manual of the {each} prescribe?" for each in pair)
        for pair in [
            ("tuner on the uplink", "tuner on the downlink"), ("gateway over TCP", "gateway over UDP"),
            ("input shaft of the gearbox", "output shaft of the gearbox"), ("radio in USB mode", "radio in LSB mode"),
            ("amplifier whose power increases", "amplifier whose power decreases"),
            ("crew that installs the rack", "crew that removes the rack"),
        ]
    ),
    ("How does firmware 1.2.3 differ from the one before?", "How does firmware 1.2.4 differ from the one before?"),
]


def make_many(count: int) -> list[str]:
    """Random questions of the words of real ones, among them families that differ in a name, and repetitions."""
    real = [question.text for question in load_questions(Path(__file__).parents[2] / "domain_questions.yaml")]
    words = [word for text in real for word in text.split()]
    chance = random.Random(0)
    many = [" ".join(chance.choices(words, k=chance.randint(5, 16))) + "?" for _ in range(count * 7 // 10)]
    many += [f"What is the maximum operating temperature of the X{number} pump?" for number in range(count * 2 // 10)]
    return many + [text.lower() for text in chance.choices(real, k=count - len(many))]


@pytest.mark.parametrize(("first", "second"), ALIKE)
def test_the_same_question_in_other_dress_is_found(first: str, second: str) -> None:
    assert find_near_duplicates([first, "Another thing?", second], 0.8) == [-1, -1, 0]
    assert find_overlaps([second], ["Another thing?", first], 0.8) == [1]


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_questions_about_different_things_are_kept(first: str, second: str) -> None:
    for pair in ([first, second], [second, first]):
        assert find_near_duplicates(pair, 0.8) == [-1, -1]
        assert find_overlaps(pair[:1], pair[1:], 0.8) == [-1]


def test_names_and_numbers_keep_questions_apart_at_any_threshold() -> None:
    assert find_near_duplicates(["The pump of group A?", "The pump of group B?", "The pump of group A?"], 0.01) == [-1, -1, 0]
    assert group_similar(["The pump of group A?", "The pump of group B?"], 0.01) == [0, 1]
    assert measure_likeness(make_shingles("The pump of group A?"), make_shingles("The pump of group B?")) == 0.0


def test_an_article_is_no_name() -> None:
    assert make_shingles("A pump fails. What then?").names == frozenset()
    assert make_shingles("WHAT IS A PUMP?").names == frozenset()
    assert make_shingles("May I see group A?").names == {"a"}


@pytest.mark.parametrize("text", ["", "???", "What is it?", "the of and", "\n"])
def test_texts_without_content_are_compared_as_they_are(text: str) -> None:
    assert find_near_duplicates([text, "A question about pumps?", text], 0.8) == [-1, -1, 0]


def test_the_real_questions_are_all_kept() -> None:
    real = [question.text for question in load_questions(Path(__file__).parents[2] / "domain_questions.yaml")]
    assert set(find_near_duplicates(real, 0.8)) == {-1}
    assert group_similar(real, 0.5) == list(range(len(real)))


def test_nothing_repeats_a_text_that_was_not_kept() -> None:
    """The second repeats the first; the third is like the second, and not like the first."""
    texts = [" ".join("abcdefghij"[start : start + 8]) for start in range(3)]
    texts = [text.replace(" ", "x ") for text in texts]
    shingles = [make_shingles(text) for text in texts]
    threshold = measure_likeness(shingles[0], shingles[1])
    assert measure_likeness(shingles[0], shingles[2]) < threshold
    assert find_near_duplicates(texts, threshold) == [-1, 0, -1]
    assert group_similar(texts, threshold) == [0, 0, 0]


WORDS = st.lists(st.sampled_from(["pump", "valve", "limit", "heat", "red", "blue", "A", "5"]), min_size=1, max_size=6)
TEXTS = st.lists(WORDS.map(" ".join), max_size=12)


@given(TEXTS, st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_what_is_found_is_what_the_exact_measure_says(texts: list[str], threshold: float) -> None:
    """Against every pair compared: candidates are missed once in a thousand at the threshold, and these lists are short."""
    shingles = [make_shingles(text) for text in texts]
    found = find_near_duplicates(texts, threshold)
    kept = [number for number, other in enumerate(found) if other < 0]
    for number, other in enumerate(found):
        if other >= 0:
            assert other in kept and other < number and measure_likeness(shingles[number], shingles[other]) >= threshold
    assert len({shingles[number] for number in kept}) == len(kept), "equal sets are always found"


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.65, 0.8])
def test_nothing_is_missed_that_comparing_every_pair_finds(threshold: float) -> None:
    chance = random.Random(7)
    words = [f"w{letter}x" for letter in "abcdefghijklmnop"]
    texts = [" ".join(chance.sample(words, chance.randint(3, 7))) for _ in range(60)]
    texts += [" ".join([*text.split()[:-1], chance.choice(words)]) for text in chance.choices(texts, k=60)]
    shingles = [make_shingles(text) for text in texts]
    groups, kept, expected = Groups(len(texts)), [], []
    for number, each in enumerate(shingles):
        likeness = [(-measure_likeness(each, shingles[other]), other) for other in range(number)]
        for value, other in likeness:
            if -value >= threshold:
                groups.join(number, other)
        best = min((pair for pair in likeness if pair[1] in kept), default=(0.0, -1))
        expected.append(best[1] if -best[0] >= threshold else -1)
        kept += [number] if expected[-1] < 0 else []
    assert find_near_duplicates(texts, threshold) == expected and 0 < len(kept) < len(texts)
    assert group_similar(texts, threshold) == [groups.find(number) for number in range(len(texts))]


@given(TEXTS, st.sampled_from([0.5, 0.8]))
def test_groups_do_not_hang_on_the_order(texts: list[str], threshold: float) -> None:
    groups = group_similar(texts, threshold)
    turned = group_similar(texts[::-1], threshold)[::-1]
    same = [first == second for first, second in combinations(groups, 2)]
    assert same == [first == second for first, second in combinations(turned, 2)]


@given(TEXTS, TEXTS, st.sampled_from([0.5, 0.8, 1.0]))
def test_overlaps_are_those_of_the_exact_measure(texts: list[str], others: list[str], share: float) -> None:
    from distill.curation.duplicates import measure_overlap

    for text, found in zip(texts, find_overlaps(texts, others, share)):
        measured = [measure_overlap(make_shingles(text), make_shingles(other)) for other in others]
        best = max(measured, default=0.0)
        assert found == (measured.index(best) if best >= share else -1)


def test_a_long_prompt_that_holds_a_held_out_question_overlaps_with_it() -> None:
    question = "How hot may the X100 pump run?"
    prompt = f"Answer from these 5 sources of group B: The X100 pump is described at length, with its 30 valves. {question}"
    assert find_overlaps([prompt], [question], 0.8) == [0]
    assert find_overlaps([prompt.replace("X100", "X200")], [question], 0.8) == [-1]
    assert find_overlaps(["How hot may the X100 pump run at 5 V?"], [question], 0.8) == [-1], "another question"


LONG = "The maintenance cycle of this unit is one hundred eighty days and covers each fastener group, oil and filters too. " * 3


@pytest.mark.parametrize("prompt", [
    "Use the sources.\n\n{text}\n\nQuestion: {question}", "Use the sources.\n{text}\n\nUSER QUERY:\n{question}\n\nAnswer:",
    "**Question:** {question}\n\nContext:\n{text}", "Sources: {text}\n{question}",
    "Question: Is it?\n{text}\nQuestion: {question}\nAnswer:",
])
def test_a_held_out_prompt_overlaps_with_a_training_question(prompt: str) -> None:
    question = "What is the vibration inspection interval of the DP4SD plan?"
    heldout = prompt.format(text=LONG, question=question)
    assert find_question(heldout) == question
    assert find_overlaps([question, "What is the colour of the DP4SD plan?"], [heldout], 0.8) == [0, -1]


@pytest.mark.parametrize("text", ["Question: why?", "What is it?", "One line.\nAnother line.", "", "Question:\n"])
def test_what_is_no_prompt_is_taken_whole(text: str) -> None:
    assert find_question(text) == text


def test_of_several_the_most_alike_is_named() -> None:
    texts = ["Why do waves bend in the upper ionosphere at night?", "Why do waves bend in the ionosphere?"]
    assert find_near_duplicates([*texts, "Why do waves bend in an ionosphere?"], 0.6) == [-1, -1, 1]
    assert find_overlaps(["Why do waves bend in the ionosphere?"], texts, 0.5) == [1]


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8, 0.95, 1.0])
def test_bands_miss_a_pair_at_the_threshold_once_in_a_thousand(threshold: float) -> None:
    bands, rows = choose_bands(threshold)
    assert bands * rows <= 256 and bands >= 2 and (1 - threshold**rows) ** bands <= 0.001


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_groups_join_what_is_linked(links: list[tuple[int, int]]) -> None:
    groups = Groups(10)
    for first, second in links:
        groups.join(first, second)
    reached = {number: {number} for number in range(10)}
    for _ in range(10):
        for first, second in [*links, *((second, first) for first, second in links)]:
            reached[first] |= reached[second]
    assert all(groups.find(number) == min(reached[number]) for number in range(10))


def test_twenty_thousand_questions_take_seconds() -> None:
    many = make_many(16_000)
    things = ["".join(letters) for letters in permutations("abcdefgh", 5)][:4000]
    many += [f"What is the highest temperature of the {thing} in service?" for thing in things]
    started = time.process_time()
    found = find_near_duplicates(many, 0.8)
    assert time.process_time() - started < 20
    assert sum(other >= 0 for other in found) > 1000


def test_results_are_the_same_in_every_run() -> None:
    many = make_many(500)
    assert find_near_duplicates(many, 0.8) == find_near_duplicates(many, 0.8)
    for order in list(permutations(range(3)))[:3]:
        texts = [ALIKE[0][0], ALIKE[0][1], "Another thing?"]
        assert sum(other >= 0 for other in find_near_duplicates([texts[place] for place in order], 0.8)) == 1
