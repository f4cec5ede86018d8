"""Does llama.cpp make the same tokens of a text, and the same text of a conversation, as the base model's own files?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from tokenizers import Tokenizer

from distill.gguf.chat import CONVERSATIONS, ChatFormat, load_tokenizer, render_jinja
from distill.gguf.families.common import Model
from distill.gguf.verification.logits import SAMPLES
from distill.gguf.verification.structure import require
from distill.gguf.vocabulary.differences import Difference
from distill.gguf.vocabulary.tokenizer import read_vocabulary
from distill.llamacpp import LlamaModel

MOST_TEXTS = 20_000  # at 1 to 2 ms each
BATCH = 64


def check_tokenization(llama: LlamaModel, model: Model, texts: Iterable[str]) -> dict[str, Any]:
    """
    Tokens of the first MOST_TEXTS texts, of built-in ones and of every special token, in llama.cpp and by tokenizer.json.

    Texts that a limit of llama.cpp touches (`Vocabulary.differences`) may differ; "explained" says why, and "limit" is for
    all others. Raises PipelineError for one of those. A text is named by its number alone, from 1: it may be private.
    """
    tokenizer = Tokenizer.from_file(str(model.folder / "tokenizer.json"))
    markers, known = describe_tokenizer(tokenizer, model)
    # As in a conversation, where a text never stands first if the tokenizer puts a token before it.
    start = find_first_token(tokenizer)
    named = [(f"the built-in text {number}", sample) for number, sample in enumerate(SAMPLES, start=1)]
    named += [(f"the special token {marker!r}", f"{marker}a{marker}") for marker in markers]
    numbered = ((f"training text {number}", text) for number, text in enumerate(islice(texts, MOST_TEXTS), start=1))
    count, explained = -len(named), Counter[str]()
    for text, problem in compare_tokens(llama, tokenizer, ((name, start + text) for name, text in chain(named, numbered))):
        reasons = [difference.sentence for difference in known if difference.touches(text)] if problem else []
        require(llama.path, bool(reasons) or not problem, f"tokenization of {problem} (limit: none may differ)")
        count, explained = count + 1, explained + Counter({"; ".join(reasons): 1} if problem else {})
    different = sum(explained.values())
    counts = {"texts": count, "special_tokens": len(markers), "different": different, "limit": 0}
    return {**counts, "explained": dict(explained), "passed": True}


def describe_tokenizer(tokenizer: Tokenizer, model: Model) -> tuple[list[str], tuple[Difference, ...]]:
    """The special tokens, and where llama.cpp can not follow the tokenizer; of a model unknown to this exporter, nothing."""
    if not model.architecture:
        return sorted(token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special), ()
    vocabulary = read_vocabulary(model.folder, model.vocabulary)
    return vocabulary.markers, vocabulary.differences


def find_first_token(tokenizer: Tokenizer) -> str:
    """The text of the token that the tokenizer puts before every text, if any."""
    full, bare = tokenizer.encode("a").tokens, tokenizer.encode("a", add_special_tokens=False).tokens
    return full[0] if full[0] != bare[0] else ""


def compare_tokens(llama: LlamaModel, tokenizer: Tokenizer, named: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """For each (name, text) the text and what differs, "" for nothing."""
    rest = iter(named)
    while batch := list(islice(rest, BATCH)):
        encodings = tokenizer.encode_batch([text for _, text in batch], add_special_tokens=False)
        for (name, text), encoding in zip(batch, encodings):
            found, wanted = llama.tokenize(text), encoding.ids
            yield text, "" if found == wanted else (
                f"{name}: {len(found)} tokens in llama.cpp, {len(wanted)} by the base model's tokenizer.json, other ones from "
                f"token {find_difference(found, wanted) + 1} on"
            )


def find_difference(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The first place at which they differ."""
    pairs = zip(one, other)
    return next((place for place, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


def check_templates(llama: LlamaModel, model: Model, chat_format: ChatFormat) -> dict[str, Any]:
    """
    The tokenizer's Jinja template, the GGUF's in llama.cpp and Ollama's TEMPLATE must write CONVERSATIONS alike.

    Where the GGUF has llama.cpp add the BOS token, neither llama.cpp's text nor Ollama's begins with it.
    Raises PipelineError for the first difference.
    """
    tokenizer = load_tokenizer(model.folder)
    added = tokenizer.bos_token or "" if read_vocabulary(model.folder, model.vocabulary).add_bos else ""
    for number, messages in enumerate(CONVERSATIONS, start=1):
        wanted = render_jinja(tokenizer, messages)
        require(llama.path, wanted is not None, f"chat template: the base model's refuses conversation {number}")
        wanted = str(wanted).removeprefix(added)
        written = {
            "the GGUF's in llama.cpp": llama.apply_template(messages),
            f"the TEMPLATE {chat_format.name}": chat_format.render(chat_format.tidy(messages)),
        }
        for name, text in written.items():
            require(llama.path, text == wanted, describe_difference(name, number, text, wanted))
    counts = {"conversations": len(CONVERSATIONS), "ways": 3, "different": 0, "limit": 0}
    return {"format": chat_format.name, **counts, "passed": True}


def describe_difference(name: str, number: int, found: str, wanted: str) -> str:
    """Where two texts part; the conversations are built in, so they may be shown."""
    place = find_difference(found, wanted)
    return (
        f"chat template: {name} writes {found[place : place + 24]!r} where the base model's writes "
        f"{wanted[place : place + 24]!r}, in conversation {number} from character {place + 1} on (limit: none may differ)"
    )
