"""
Personal data in a text, replaced by tags such as [EMAIL] before the text is sent or learnt.

The rules for cards, social security numbers, e-mail addresses, telephone numbers and IP addresses are in distill/personal.py;
here are the user's own patterns and words, and how all of them together make one text. A tag is never looked into, so that
masking a masked text changes nothing.

Each text is masked by itself, and a chunk's ends may cut what it holds. An e-mail address that is cut after its @ is masked as
well. Not seen are a name cut before the @, and a card, social security or telephone number of which a part is missing: such a
part looks like any other number, and is no whole one. A word or name of the user's is seen only where it is whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from distill.config import MaskingSection
from distill.errors import PipelineError
from distill.files import read_text
from distill.personal import DETECTORS, Span, to_plain

# text, first character, end: the spans to mask between the two.
Detector = Callable[[str, int, int], Iterator[Span]]
WORD_TAG = "WORD"
PIECE = re.compile(r"[^\W_]+")  # an underscore separates: smith_report.pdf holds the word smith


class Masker:
    """Masks texts and remembers what it masked.

    `counts`: spans by tag, such as {"EMAIL": 3}. `found`: the same by (tag, masked text); it is personal data, for the console
    alone. Raises PipelineError when the file of words is missing or no text.
    """

    def __init__(self, section: MaskingSection) -> None:
        self.counts: Counter[str] = Counter()
        self.found: Counter[tuple[str, str]] = Counter()
        words = load_words(section.words_file) if section.words_file else []
        # What overlaps is masked whole, under the tag of its longest part; the earlier in this list where two are equal.
        self._builtin = [(kind.upper(), DETECTORS[kind]) for kind in DETECTORS if kind in section.kinds]
        self._own = [*((name, by_pattern(pattern)) for name, pattern in section.patterns.items()), (WORD_TAG, by_words(words))]
        tags = "|".join({kind.upper() for kind in DETECTORS} | {name for name, _ in self._own})
        self._tags = re.compile(rf"\[(?:{tags})\]")

    def mask(self, text: str) -> str:
        """The text with everything that the section names replaced by [TAG]."""
        # A tag may uncover a neighbour ("a@b.com555-123-4567"): go on until nothing more is found. The rest shrinks each time.
        while (masked := self._mask_once(text)) != text:
            text = masked
        return text

    def _mask_once(self, text: str) -> str:
        parts, done = [], 0
        for start, end, tag in merge_spans(self._find(text)):
            self.counts[tag] += 1
            self.found[tag, text[start:end]] += 1
            parts += [text[done:start], f"[{tag}]"]
            done = end
        return "".join([*parts, text[done:]])

    def _find(self, text: str) -> Iterator[tuple[int, int, str]]:
        plain = to_plain(text)
        for start, end in self._list_gaps(text):
            for tag, detect in self._builtin:
                yield from ((*span, tag) for span in detect(plain, start, end))
            for tag, detect in self._own:
                yield from ((*span, tag) for span in detect(text, start, end))

    def _list_gaps(self, text: str) -> Iterator[Span]:
        """What stands between the tags that the text holds already."""
        done = 0
        for found in self._tags.finditer(text):
            yield done, found.start()
            done = found.end()
        yield done, len(text)

    def describe_found(self) -> list[str]:
        """For --show-redactions: every masked text, by tag, the most frequent first. For the console, never for a file."""
        ordered = sorted(self.found.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
        return [f"    [{tag}] {number:5,} x {' '.join(text.split())}" for (tag, text), number in ordered]


def merge_spans(spans: Iterator[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    """Overlapping spans as one, in order: half of a masked name would still be a name."""
    merged: tuple[int, int, str] | None = None
    longest = 0
    for start, end, tag in sorted(spans, key=lambda span: span[0]):  # stable: of equal spans the first detector's counts
        if merged and start < merged[1]:
            best = tag if end - start > longest else merged[2]
            merged, longest = (merged[0], max(end, merged[1]), best), max(longest, end - start)
            continue
        if merged:
            yield merged
        merged, longest = (start, end, tag), end - start
    if merged:
        yield merged


# -----------------------------------------------------------------------------
# The user's own


def by_pattern(pattern: str) -> Detector:
    """Every match of a regular expression that is not empty."""
    compiled = re.compile(pattern)

    def detect(text: str, start: int, end: int) -> Iterator[Span]:
        return (found.span() for found in compiled.finditer(text, start, end) if found.group())

    return detect


def load_words(path: Path) -> list[str]:
    """The words and names of a file, one a line; blank lines and lines that begin with # are passed over."""
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except PipelineError as error:
        raise PipelineError(f"config.yaml generate.masking.words_file: {error}") from None
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#") and not PIECE.search(line):
            raise PipelineError(f"{path}:{number} holds no letter and no digit: mend or delete the line")
    return [line for line in lines if line and not line.startswith("#")]


def by_words(words: list[str]) -> Detector:
    """Whole words and names, in upper or lower case, with any white space inside; one look-up for each word of a text."""
    entries: dict[str, list[re.Pattern[str]]] = defaultdict(list)
    for word in {unicodedata.normalize(form, word) for word in words for form in ("NFC", "NFD")}:
        first = PIECE.search(word)
        assert first  # load_words refuses the others
        parts = word[first.start() :].split()
        ending = r"(?![^\W_])" if PIECE.match(word[-1]) else ""
        entries[first.group().lower()].append(re.compile(r"\s+".join(map(re.escape, parts)) + ending, re.IGNORECASE))

    def detect(text: str, start: int, end: int) -> Iterator[Span]:
        for piece in PIECE.finditer(text, start, end) if entries else ():
            for entry in entries.get(piece.group().lower(), ()):
                if found := entry.match(text, piece.start(), end):
                    yield found.span()

    return detect
