"""The checks of one file as lines for the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe_checks(name: str, checks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Short lines, one a check; what went wrong has been raised before."""
    describe = {
        "structure": describe_structure, "weights": describe_weights, "tokenization": describe_tokenization,
        "chat_template": describe_template, "logits": describe_logits, "conversion": describe_conversion,
        "quantisation": describe_quantisation,
    }
    return [
        f"[{'WARN' if checks[check].get('explained') else 'OK'}] {name}: {line(checks[check])}"
        for check, line in describe.items() if check in checks
    ]


def describe_structure(check: Mapping[str, Any]) -> str:
    """What the file holds."""
    planned = " as planned" if check.get("planned", True) else ""
    return f"structure: {check['tensors']} tensors, {check['keys']} keys and {check['tokens']:,} tokens{planned}, no NaN"


def describe_weights(check: Mapping[str, Any]) -> str:
    """How near the file is to base and adapter."""
    share = "" if check["adapter_share"] is None else f", {check['adapter_share']:.0%} of the adapter's update is in them"
    return f"weights: {check['tensors']} tensors at {check['worst_error_of_limit']:.0%} of their limits or nearer{share}"


def describe_tokenization(check: Mapping[str, Any]) -> str:
    """How many texts became the same tokens."""
    counts = f"{check['texts']:,} training texts and {check['special_tokens']:,} special tokens"
    if not check["explained"]:
        return f"tokens: {counts} as tokenizer.json makes them"
    return (
        f"tokens: {counts}; {sum(check['explained'].values()):,} texts become other tokens than in training, because the "
        f"tokenizer {' / '.join(check['explained'])}"
    )


def describe_template(check: Mapping[str, Any]) -> str:
    """Which format."""
    counts = f"chat template: {check['conversations']} conversations alike by Jinja"
    return f"{counts}, llama.cpp and Ollama's {check['format']}" if check["ways"] == 3 else f"{counts} and llama.cpp"


def describe_logits(check: Mapping[str, Any]) -> str:
    """llama.cpp against Hugging Face with the same weights."""
    return (
        f"logits: llama.cpp against Hugging Face with the same weights: KL {check['mean_kl']:.1e} (limit {check['limit']:.1e}; "
        f"rounded activations alone {check['rounding_alone']:.1e})"
    )


def describe_conversion(check: Mapping[str, Any]) -> str:
    """f16 against the merged model."""
    return (
        f"conversion: f16 against base and adapter merged in float32: KL {check['mean_kl']:.1e} (limit {check['limit']:.1e}), "
        f"same top token {check['top1']:.1%} (limit {check['limit_top1']:.1%})"
    )


def describe_quantisation(check: Mapping[str, Any]) -> str:
    """The price of the quantisation."""
    published = check["published_kl"]
    yardstick = f"published for Llama-3-8B: {published}" if published else "none is published"
    line = f"quantisation: against f16: KL {check['mean_kl']:.1e} ({yardstick}), max {check['max_kl']:.1e}, same top token "
    line += f"{check['top1']:.1%} of {check['positions']:,}"
    if "change" in check:
        line += (
            f"; perplexity {check['reference_perplexity']:.3f} to {check['perplexity']:.3f}, {check['change']:+.2%} +- "
            f"{check['change_error']:.2%}, over {check['rows']} held-out rows"
        )
    return line
