"""
Does llama.cpp compute what transformers computes? Checks of a finished GGUF.

`check_structure` reads the file alone. The other checks load it in llama.cpp and set its next-token distributions over the
whole vocabulary against Hugging Face's Phi3 with given weights: the GGUF's own, dequantised (any difference is then a fault
of the conversion), or the merged 16-bit ones (the difference is then the price of the quantisation). Layers are brought in
one at a time, so Phi-4-mini needs about 6 GB.
"""

from __future__ import annotations

import functools
import gc
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, ReaderTensor
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from tokenizers import Tokenizer

from distill.errors import PipelineError
from distill.gguf.convert import plan_tensors
from distill.gguf.merge import BaseWeights, MergedWeights, load_adapter
from distill.gguf.phi3 import RESERVED_NAME, list_tensors, read_phi3
from distill.gguf.recipe import get_recipe
from distill.llamacpp import LlamaModel

# Hugging Face tensor name to float32 weight.
WeightSource = Callable[[str], torch.Tensor]
# The input of a linear layer to what is multiplied.
Rounding = Callable[[torch.Tensor], torch.Tensor]

# The half floats in every block that scale its values: first byte, bytes.
SCALE_BYTES = {
    Kind.Q4_K: (0, 4), Kind.Q5_K: (0, 4), Kind.Q6_K: (208, 2), Kind.Q8_0: (0, 2), Kind.Q5_0: (0, 2), Kind.Q5_1: (0, 4),
}

# llama.cpp multiplies with activations rounded to 8 bits (to half floats for f16 weights), Hugging Face does not. How far that
# alone moves the predictions depends on the model, so it is computed; a right conversion then lies at 1 times that figure
# (tests/gguf/test_verify.py, and a full-size model), a lost rotary factor or a wrong norm at 15 times or more.
NOISE_FACTOR = 5
KL_FLOOR = 5e-4  # nats; below this nothing is worth a failure

# Two tokens whose log-probabilities differ by less are equally likely; rounding decides between them.
TIE = 0.01

SAMPLES = (
    "<|system|>You answer from technical documents.<|end|><|user|>What torque do the flange bolts need, and how often is the "
    "relief valve tested?<|end|><|assistant|>The flange bolts are tightened to 45 Nm in a cross pattern; the relief valve "
    "is tested every 250 hours at 1.1 times the set pressure.",
    "<|user|>List three causes of pump cavitation.<|end|><|assistant|>1. Suction pressure that's too low\n2. A clogged "
    "strainer (see section 4.2)\n3. Liquid when it's above 80 degrees, or entrained air.",
    "<|user|>Summarise: The inverter's DC link holds 600 V for 5 minutes after shutdown. Don't open the cover before the "
    "indicator goes dark.<|end|><|assistant|>Wait until the indicator is dark before opening the cover.",
)
CONVERSATIONS = (
    [{"role": "user", "content": "What is the torque?"}],
    [{"role": "system", "content": "Be precise."}, {"role": "user", "content": "How often?\n\n45 Nm?"},
     {"role": "assistant", "content": "Every 250 hours."}, {"role": "user", "content": "And the valve?"}],
)


@dataclass(frozen=True)
class Probe:
    """Token sequences, and for each the places whose next-token distribution is compared."""

    sequences: list[list[int]]
    places: list[list[int]]


@dataclass(frozen=True)
class Agreement:
    """
    Divergence of llama.cpp from the reference, in nats, and how often both hold the same token for the likeliest.

    A token counts as the same where the reference gives it a probability within 1% of the largest.
    """

    mean_kl: float
    max_kl: float
    top1: float
    positions: int


Distributions = list[np.ndarray]  # log-probabilities, for each sequence an array [places, vocabulary]


def make_probe(base_folder: Path, positions: int, longest: int = 96) -> Probe:
    """About `positions` places, spread over the built-in sample texts cut to `longest` tokens; first tokens are left out."""
    tokenizer = Tokenizer.from_file(str(base_folder / "tokenizer.json"))
    sequences = [tokenizer.encode(text, add_special_tokens=False).ids[:longest] for text in SAMPLES]
    share = max(1, positions // len(sequences))
    places = [sorted({int(place) for place in np.linspace(1, len(tokens) - 1, share)}) for tokens in sequences]
    return Probe(sequences, places)


# -----------------------------------------------------------------------------
# The file alone


def check_structure(path: Path, base_folder: Path, quantization: str) -> dict[str, int]:
    """
    Check tensor names, shapes, types, finite numbers, vocabulary and name of a GGUF; returns counts.

    Raises PipelineError for the first thing that is not as planned.
    """
    model = read_phi3(base_folder)
    reader = open_gguf(path)
    planned = {tensor.name: tensor for tensor in plan_tensors(model, get_recipe(quantization))}
    found = {tensor.name: tensor for tensor in reader.tensors}
    require(path, planned.keys() == found.keys(), f"tensors differ: {sorted(planned.keys() ^ found.keys())[:3]}")
    for name, tensor in found.items():
        shape = tuple(int(size) for size in reversed(tensor.shape))
        require(path, shape == planned[name].shape, f"{name} has shape {shape}, not {planned[name].shape}")
        require(path, tensor.tensor_type == planned[name].kind, f"{name} is {tensor.tensor_type.name}")
        require(path, is_finite(tensor), f"{name} holds NaN or infinite values")
    tokens = len(reader.fields["tokenizer.ggml.tokens"].data)
    require(path, tokens == model.vocabulary, f"{tokens} tokens for an embedding of {model.vocabulary} rows")
    name = reader.fields["general.name"].contents()
    require(path, not RESERVED_NAME.search(name), f"general.name {name!r} makes llama.cpp take it for a Phi-3")
    return {"tensors": len(found), "tokens": tokens, "bytes": path.stat().st_size}


def open_gguf(path: Path) -> GGUFReader:
    """Raises PipelineError for a file that is no whole GGUF."""
    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise PipelineError(f"{path} is no complete GGUF file ({error}): export it again") from None


def release_mappings(error: BaseException) -> None:
    """
    Unmap the files that an error still holds: Windows deletes no file that is mapped into memory.

    A GGUFReader maps its file for as long as a variable refers to it or to one of its tensors, and the frames in an error's
    traceback keep their variables.
    """
    raised: BaseException | None = error
    while raised is not None:
        traceback.clear_frames(raised.__traceback__)
        raised = raised.__context__
    gc.collect()


def require(path: Path, condition: bool, problem: str) -> None:
    """Raises PipelineError unless `condition` holds."""
    if not condition:
        raise PipelineError(f"{path.name} failed verification: {problem}")


def is_finite(tensor: ReaderTensor) -> bool:
    """No NaN and no infinity; of quantised blocks only the scales can hold one."""
    data = np.asarray(tensor.data)
    if tensor.tensor_type in SCALE_BYTES:
        start, count = SCALE_BYTES[tensor.tensor_type]
        blocks = data.reshape(-1, GGML_QUANT_SIZES[tensor.tensor_type][1])
        data = np.ascontiguousarray(blocks[:, start : start + count]).view(np.float16)
    return bool(np.isfinite(data).all())


# -----------------------------------------------------------------------------
# Tokenizer and chat template


def check_tokenizer(llama: LlamaModel, base_folder: Path) -> None:
    """Raises PipelineError where llama.cpp splits a text, or renders a conversation, other than the base's own tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = Tokenizer.from_file(str(base_folder / "tokenizer.json"))
    for text in SAMPLES:
        same = llama.tokenize(text) == tokenizer.encode(text, add_special_tokens=False).ids
        require(llama.path, same, f"llama.cpp splits {text[:40]!r}... into other tokens than the base model's tokenizer")
    template = AutoTokenizer.from_pretrained(base_folder, local_files_only=True)
    for messages in CONVERSATIONS if template.chat_template else ():
        wanted = template.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        require(llama.path, llama.apply_template(messages) == wanted, "the chat template renders other than the base model's")


# -----------------------------------------------------------------------------
# Weights for the reference


def read_gguf_weights(path: Path, base_folder: Path) -> WeightSource:
    """The GGUF's own numbers, dequantised, under Hugging Face's names."""
    tensors = {tensor.name: tensor for tensor in open_gguf(path).tensors}
    names = list_tensors(read_phi3(base_folder))

    def load(name: str) -> torch.Tensor:
        tensor = tensors[names[name]]
        numbers = dequantize(np.asarray(tensor.data), tensor.tensor_type).astype(np.float32, copy=False)
        numbers = numbers if numbers.flags.writeable else numbers.copy()
        return torch.from_numpy(numbers.reshape(tuple(int(size) for size in reversed(tensor.shape))))

    return load


def read_merged_weights(weights: MergedWeights) -> WeightSource:
    """Base and adapter, merged in float32."""
    return lambda name: weights.rows(name, 0, weights.base.shape(name)[0])


# -----------------------------------------------------------------------------
# Distributions


def compute_reference(
    base_folder: Path, weights: WeightSource, probe: Probe, rounding: Mapping[str, Rounding] | None = None
) -> Distributions:
    """
    What Hugging Face's Phi3 predicts with these weights, in float32.

    rounding: what happens to the input of each linear layer, by the layer's name; nothing, if it is left out.
    """
    # Padding behind a sequence changes nothing before it, so one pass over the layers serves all sequences.
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(sequence) for sequence in probe.sequences], batch_first=True)
    with torch.inference_mode():
        model = build_streamed_phi3(base_folder, weights, rounding or {})
        hidden = model.model(tokens, use_cache=False).last_hidden_state
        logits = [model.lm_head(row[places]) for row, places in zip(hidden, probe.places)]
        return [part.double().log_softmax(dim=-1).numpy() for part in logits]


def ask_llama(llama: LlamaModel, probe: Probe) -> Distributions:
    """What llama.cpp predicts."""
    return [
        np.stack([llama.log_probabilities(tokens[: place + 1]) for place in places])
        for tokens, places in zip(probe.sequences, probe.places)
    ]


def build_streamed_phi3(base_folder: Path, weights: WeightSource, rounding: Mapping[str, Rounding]) -> torch.nn.Module:
    """Hugging Face's Phi3 whose layers hold weights only while they compute."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base_folder, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    # Its frequencies are computed, not loaded, and the meta device computes nothing.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    fill_module(model.model.embed_tokens, "model.embed_tokens", weights)
    fill_module(model.model.norm, "model.norm", weights)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    else:
        fill_module(model.lm_head, "lm_head", weights)
    for number, layer in enumerate(model.model.layers):
        name = f"model.layers.{number}"
        layer.register_forward_pre_hook(lambda module, _, name=name: fill_module(module, name, weights))
        layer.register_forward_hook(lambda module, *_: module.to("meta") and None)
    for name, round_input in rounding.items():
        model.get_submodule(name).register_forward_pre_hook(lambda _, inputs, change=round_input: (change(inputs[0]),))
    return model


def fill_module(module: torch.nn.Module, name: str, weights: WeightSource) -> None:
    """Give a module its weights, in place of those on the meta device."""
    module.load_state_dict({key: weights(f"{name}.{key}") for key in module.state_dict()}, assign=True)


# -----------------------------------------------------------------------------
# llama.cpp's rounding of activations


def read_rounding(path: Path, base_folder: Path) -> dict[str, Rounding]:
    """For every linear layer, what llama.cpp's CPU code does to its input: it depends on the type of the weights."""
    kinds = {tensor.name: tensor.tensor_type for tensor in open_gguf(path).tensors}
    names = list_tensors(read_phi3(base_folder))
    names.setdefault("lm_head.weight", names["model.embed_tokens.weight"])
    linear = (name for name in names if "norm" not in name and "embed_tokens" not in name)
    return {name.removesuffix(".weight"): functools.partial(round_input, kind=kinds[names[name]]) for name in linear}


def round_input(values: torch.Tensor, kind: Kind) -> torch.Tensor:
    """float32 activations as they are multiplied with weights of a kind: half floats, or 8-bit multiples of a block's scale."""
    if kind in (Kind.F32, Kind.F16):
        return values if kind == Kind.F32 else values.half().float()
    blocks = values.reshape(-1, GGML_QUANT_SIZES[kind][0])
    scale = blocks.abs().amax(dim=1, keepdim=True).div_(127).clamp_(min=1e-30)
    return (blocks / scale).round_().mul_(scale).reshape(values.shape)


# -----------------------------------------------------------------------------
# Comparison


def measure_agreement(reference: Distributions, candidate: Distributions) -> Agreement:
    """KL(reference || candidate) at every place, and how often both hold the same token for the likeliest."""
    expected, found = np.concatenate(reference), np.concatenate(candidate)
    divergence = np.sum(np.exp(expected) * (expected - found), axis=1)
    chosen = np.take_along_axis(expected, found.argmax(axis=1)[:, None], axis=1)[:, 0]
    same = expected.max(axis=1) - chosen <= TIE
    return Agreement(float(divergence.mean()), float(divergence.max()), float(same.mean()), len(same))


def require_agreement(path: Path, conversion: Agreement, noise: Agreement) -> None:
    """
    Raises PipelineError when llama.cpp computes something else than Hugging Face from the same weights.

    noise: how far rounded activations alone take Hugging Face from itself.
    """
    limit = max(KL_FLOOR, NOISE_FACTOR * noise.mean_kl)
    # Written so that NaN fails as well.
    if not conversion.mean_kl <= limit:
        raise PipelineError(
            f"{path.name} failed verification: llama.cpp and Hugging Face differ by {conversion.mean_kl:.4f} nats with the "
            f"same weights (limit {limit:.4f}), so the conversion is wrong: report this with adapters/manifest.json"
        )


# -----------------------------------------------------------------------------
# All of it


def verify_numbers(
    path: Path, base_folder: Path, reference: Callable[[], Distributions], positions: int
) -> dict[str, Agreement]:
    """
    Tokenizer, chat template and computation of a GGUF: its agreement with Hugging Face on its own weights ("conversion"), what
    rounded activations explain of that ("rounding_alone"), and its agreement with the 16-bit model ("against_16_bit").

    reference: the 16-bit model's predictions for `make_probe(base_folder, positions)`, asked for last.
    Raises PipelineError when the file is wrong; a large distance from the 16-bit model alone is no error.
    """
    probe = make_probe(base_folder, positions)
    with LlamaModel(path, n_ctx=512) as llama:
        check_tokenizer(llama, base_folder)
        found = ask_llama(llama, probe)
    weights = read_gguf_weights(path, base_folder)
    exact = compute_reference(base_folder, weights, probe)
    rounded = compute_reference(base_folder, weights, probe, read_rounding(path, base_folder))
    conversion, noise = measure_agreement(exact, found), measure_agreement(exact, rounded)
    require_agreement(path, conversion, noise)
    return {"conversion": conversion, "rounding_alone": noise, "against_16_bit": measure_agreement(reference(), found)}


def make_reference(base_folder: Path, adapter_folder: Path | None, positions: int) -> Callable[[], Distributions]:
    """What the merged 16-bit model predicts: computed at the first call, remembered for further quantisations."""

    @functools.cache
    def compute() -> Distributions:
        with BaseWeights(base_folder) as base:
            merged = MergedWeights(base, load_adapter(adapter_folder) if adapter_folder else None)
            return compute_reference(base_folder, read_merged_weights(merged), make_probe(base_folder, positions))

    return compute
