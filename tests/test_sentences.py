from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.sentences import split_sentences


@pytest.mark.parametrize(("text", "sentences"), [
    ("The gain is 3.5 dB at 2.45 GHz. It falls by 0.2 dB per metre.", 2),
    ("Use a shielded cable, e.g. Belden 9913, for the run. Ground it once at the mast.", 2),
    ("See Fig. 3 and Eq. (4) for the whole path. The rest follows from it.", 2),
    ("The U.S. Army wrote the standard in 1999. J. Smith signed the final page.", 2),
    ("Nominal output power is 10 W. The limit is 12 W at most. Never exceed it again.", 3),
    ("Is the link margin enough? It must be 6 dB! Otherwise add a bigger antenna.", 3),
    ('He said "the link is down now." Then he left the room.', 2),
    ("The value (see Table 2.1.) is kept as it is written.", 1),
    ("Nobody answered. No. That was not the answer we wanted.", 1),
])
def test_sentences_are_cut_where_they_end(text: str, sentences: int) -> None:
    found = split_sentences(text)
    assert len(found) == sentences and all(sentence in text for sentence in found)


def test_headings_code_tables_links_and_torn_ends_are_left_out() -> None:
    text = """rest of a sentence that began in the chunk before. This one is whole and stays.

# A heading that ends with a full stop.

Underlined heading of this part
===============================

| Column of numbers | Another column of numbers. |

```python
print("a sentence inside code is no sentence.")
```

    indented = code that ends like a sentence.

- The first item of the list needs no full stop
- short one
2. The second list is numbered and counts too.

> A quoted paragraph goes on
> over two lines as one.

Read [the manual](https://example.com/manual) before you begin the work.

The last sentence was cut at the end of"""
    assert split_sentences(text) == [
        "This one is whole and stays.",
        "The first item of the list needs no full stop",
        "The second list is numbered and counts too.",
        "A quoted paragraph goes on over two lines as one.",
    ]


def test_a_chunk_that_begins_inside_code() -> None:
    text = "value = compute(everything)\n```\n\nThe loop ends when the queue is empty.\n\n```python\nmore code is here.\n```"
    assert split_sentences(text) == ["The loop ends when the queue is empty."]


def test_a_list_item_at_which_the_chunk_was_cut_is_left_out() -> None:
    assert split_sentences("- The whole item stays here\n- The torn item is cut off at") == ["The whole item stays here"]


@given(st.text(max_size=300))
def test_any_text_can_be_split_and_nothing_is_invented(text: str) -> None:
    for sentence in split_sentences(text):
        assert sentence == " ".join(sentence.split()) and all(word in text for word in sentence.split())
