"""
Is a GGUF that the user's own llama.cpp made the model that was trained?

Nothing is known of its architecture here, so the 16-bit file is compared with Hugging Face holding the merged weights, and the
quantised ones with the 16-bit file.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gguf.constants import GGMLQuantizationType as Kind
from tokenizers import Tokenizer

from distill.errors import PipelineError
from distill.files import read_json
from distill.gguf.chat import CONVERSATIONS, ChatFormat, load_tokenizer, render_jinja
from distill.gguf.convert import Output
from distill.gguf.families.common import Model, Weight
from distill.gguf.merge import MergedWeights
from distill.gguf.shards import BaseWeights
from distill.gguf.verification import logits
from distill.gguf.verification.held_out import PUBLISHED_KL, require_likeness
from distill.gguf.verification.streamed import read_merged_weights
from distill.gguf.verification.structure import is_finite, leave_nothing_mapped, open_gguf, require
from distill.gguf.verification.text import check_tokenization
from distill.llamacpp import LlamaModel

POSITIONS = 32
CONTEXT = 512
UNPROVABLE = "what llama.cpp makes of this model cannot be proven: choose a base model whose layers are built as Llama's are"


def describe_unknown(folder: Path) -> Model:
    """A model of which nothing but its tensors' names is known: enough to fill Hugging Face's own implementation."""
    config = read_json(folder / "config.json")
    text = config.get("text_config") or config
    with BaseWeights(folder) as base:
        weights = tuple(Weight(name, name, base.shape(name)) for name in sorted(base.names))
    embedding = next((weight for weight in weights if weight.source.endswith("embed_tokens.weight")), None)
    if embedding is None or not isinstance(text.get("num_hidden_layers"), int):
        missing = "a tensor embed_tokens.weight" if embedding is None else "num_hidden_layers in config.json"
        raise PipelineError(f"{folder}: {missing} is missing, so {UNPROVABLE}")
    return Model(
        folder=folder, family="unknown", architecture="", vocabulary=embedding.shape[0], layers=text["num_hidden_layers"],
        tied=not any(weight.source.endswith("lm_head.weight") for weight in weights), trained_context=0, context_reason="",
        metadata={}, weights=weights, prefix=embedding.source.removesuffix("model.embed_tokens.weight"),
    )


@leave_nothing_mapped()
def verify_foreign(
    f16: Path, folder: Path, chat_format: ChatFormat, texts: Iterable[str]
) -> tuple[dict[str, dict[str, Any]], logits.Distributions]:
    """
    Tokens, chat template and logits of an f16 GGUF against the 16-bit folder that it was made from.

    Returns the checks and what llama.cpp predicted, for `compare_quantised`. Raises PipelineError for the first that fails.
    """
    model, probe = describe_unknown(folder), logits.make_probe(folder, POSITIONS)
    with LlamaModel(f16, n_ctx=CONTEXT) as llama:
        checks = {
            "tokenization": check_tokenization(llama, model, texts),
            "chat_template": check_template(llama, folder, chat_format),
        }
        answers = logits.ask_llama(llama, probe)
    exact, rounded = compute_merged(model, probe)
    found, noise = logits.measure_agreement(exact, answers), logits.measure_agreement(exact, rounded)
    limit, share = logits.require_exactness(f16, found, noise)
    checks["conversion"] = {
        **asdict(found), "rounding_alone": noise.mean_kl, "limit": limit, "limit_top1": share, "passed": True
    }
    return checks, answers


def compute_merged(model: Model, probe: logits.Probe) -> tuple[logits.Distributions, logits.Distributions]:
    """
    What Hugging Face predicts without and with rounded activations.

    Raises PipelineError for a model that is built otherwise than `build_streamed_model` can fill.
    """
    linear = [weight.source.removeprefix(model.prefix) for weight in model.weights if len(weight.shape) == 2]
    rounding = {
        name.removesuffix(".weight"): functools.partial(logits.round_input, kind=Kind.F16)
        for name in linear if "embed_tokens" not in name
    }
    with BaseWeights(model.folder) as base:
        try:
            return logits.compute_both(model, read_merged_weights(MergedWeights(base), model), probe, rounding)
        except (AttributeError, KeyError) as error:
            raise PipelineError(f"{model.folder}: Hugging Face's model has other parts ({error}), so {UNPROVABLE}") from None


def check_template(llama: LlamaModel, folder: Path, chat_format: ChatFormat) -> dict[str, Any]:
    """The GGUF's chat template in llama.cpp against the tokenizer's, which `chat_format` has been found to match."""
    tokenizer = load_tokenizer(folder)
    for number, messages in enumerate(CONVERSATIONS, start=1):
        wanted = str(render_jinja(tokenizer, messages))
        found = llama.apply_template(messages)
        same = found in (wanted, wanted.removeprefix(tokenizer.bos_token or ""))
        require(llama.path, same, f"chat template: llama.cpp writes conversation {number} otherwise than the base model's own")
    counts = {"conversations": len(CONVERSATIONS), "ways": 2, "different": 0, "limit": 0}
    return {**counts, "format": chat_format.name, "passed": True}


@leave_nothing_mapped()
def compare_quantised(output: Output, folder: Path, reference: logits.Distributions) -> dict[str, dict[str, Any]]:
    """Structure of a quantised file, and its distance from the 16-bit one at the same places."""
    reader = open_gguf(output.path)
    for tensor in reader.tensors:
        require(output.path, is_finite(tensor), f"{tensor.name} holds NaN or infinite values")
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    counts = {"tensors": len(reader.tensors), "keys": len(reader.fields), "tokens": tokens, "planned": False, "passed": True}
    with LlamaModel(output.path, n_ctx=CONTEXT) as llama:
        answers = logits.ask_llama(llama, logits.make_probe(folder, POSITIONS))
    found = logits.measure_agreement(reference, answers)
    limit = require_likeness(output.path, found)
    published = PUBLISHED_KL.get(output.quantization)
    return {
        "structure": counts, "quantisation": {**asdict(found), "published_kl": published, "limit": limit, "passed": True}
    }
