"""HybridRAG3's golden evaluation files.

A file is a JSON list of cases. `query` is needed. `type` is answerable (where it is left out), unanswerable, ambiguous or
injection. `expected_key_facts` and `expected_sources` are lists, or such a list written as one text. A fact may be a list of
alternatives, or one text with | between them; a source is a file name or a path, of which the name counts. Of an injection
case, `forbidden_key_facts` are the planted claims. Whatever else a case has, such as `role`, is passed over.
"""

from __future__ import annotations

import ast
import json
import ntpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from distill.cases.facts import split_fact
from distill.errors import PipelineError
from distill.files import is_unicode, read_json

Kind = Literal["answerable", "unanswerable", "ambiguous", "injection"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# What HybridRAG3's own documents falsely claim, to see whether a model falls for it; its injection cases do not name it.
PLANTED_CLAIMS = ("AES-512",)
SOURCE_KEYS = ("source_path", "path", "source")


@dataclass(frozen=True)
class GoldenCase:
    """One case. `facts` are lists of alternatives; `sources` are file names in lower case; `place` is the file and number."""

    id: str
    kind: Kind
    query: str
    facts: tuple[tuple[str, ...], ...]
    sources: frozenset[str]
    forbidden: tuple[str, ...]
    place: str

    @property
    def wants_answer(self) -> bool:
        """Whether there is something to answer, and a document to cite."""
        return self.kind in ("answerable", "injection")

    @property
    def expectation(self) -> tuple[Any, ...]:
        """What would make an answer right."""
        return self.kind, self.facts, self.sources, self.forbidden


def load_cases(path: Path) -> list[GoldenCase]:
    """The cases of one file. Raises PipelineError, naming file, case and key, for the first that cannot be used."""
    if not path.is_file():
        raise PipelineError(f"{path} is missing: mend evaluate.golden_cases")
    values = read_json(path)
    if not isinstance(values, list) or not values:
        raise PipelineError(f"{path} must hold a JSON list of cases, each with query and expected_key_facts")
    return [read_case(value, path, number) for number, value in enumerate(values, start=1)]


def read_case(value: Any, path: Path, number: int) -> GoldenCase:
    """Raises PipelineError for what is no case."""
    if not isinstance(value, dict):
        raise PipelineError(f"{path} case {number} is {type(value).__name__}, not an object with query")
    case_id = str(value.get("id") or f"Q{number:04d}")
    place = f"{path} case {number} ({case_id})"
    if not is_unicode(value):
        raise PipelineError(f"{place} holds half of a character (a lone \\ud... escape): mend it")
    query = value.get("query")
    if not isinstance(query, str) or not query.strip():
        raise PipelineError(f"{place} query: must be a question")
    kind = str(value.get("type") or "answerable").strip().lower()
    if kind not in KINDS:
        raise PipelineError(f"{place} type: must be one of {', '.join(KINDS)} (given: {value['type']!r})")
    facts = tuple(read_facts(value.get("expected_key_facts"), f"{place} expected_key_facts"))
    sources = frozenset(read_sources(value.get("expected_sources"), f"{place} expected_sources"))
    planted = tuple(read_facts(value.get("forbidden_key_facts"), f"{place} forbidden_key_facts"))
    forbidden = (sum(planted, ()) or PLANTED_CLAIMS) if kind == "injection" else ()
    return GoldenCase(case_id, kind, query.strip(), facts, sources, forbidden, place)


def read_list(value: Any, place: str) -> list[Any]:
    """A list, a list written as one text, or one value alone. Raises PipelineError for an object."""
    if isinstance(value, str):
        value = parse_list(value)
    if value is None or value == "":
        return []
    if isinstance(value, dict):
        raise PipelineError(f"{place}: must be a list of texts")
    return list(value) if isinstance(value, (list, tuple)) else [value]


def parse_list(text: str) -> Any:
    """The list that a text spells in JSON, or as Python shows it; any other text stays as it is."""
    for parse in (json.loads, ast.literal_eval) if text.strip().startswith("[") else ():
        try:
            return parse(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def read_facts(value: Any, place: str) -> Iterator[tuple[str, ...]]:
    """Each fact as its alternatives; blank ones are left out. Raises PipelineError for what is neither text nor number."""
    for item in read_list(value, place):
        listed = item if isinstance(item, list) else item.split("|") if isinstance(item, str) else [item]
        for each in listed:
            if each is not None and (isinstance(each, bool) or not isinstance(each, (str, int, float))):
                raise PipelineError(f"{place}: {json.dumps(each)[:60]} is neither a text nor a number")
        kept = tuple(" ".join(str(each).split()) for each in listed if each is not None and split_fact(str(each)))
        if kept:
            yield kept


def read_sources(value: Any, place: str) -> Iterator[str]:
    """The file names of the sources, in lower case. Raises PipelineError for what is no text."""
    for item in read_list(value, place):
        path = next((item[key] for key in SOURCE_KEYS if item.get(key)), None) if isinstance(item, dict) else item
        if not isinstance(path, str):
            raise PipelineError(f"{place}: {json.dumps(item)[:60]} is no file name")
        if path.strip():
            yield name_source(path)


def name_source(path: str) -> str:
    """The file name of a path of either kind, in lower case: the index may stand under another folder."""
    return ntpath.basename(path.strip()).lower()
