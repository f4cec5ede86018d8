"""What goes on the GPU at once: a few plans, their memory and time by formula, the fastest that fits.

A plan is: the base model in 4 or 16 bits, activations kept or computed again, and how many tokens are on the GPU at once. A
step is always effective_batch_size rows, whatever the plan: they are learnt in as many batches as the tokens allow. Memory is
the weights, the adapters with gradients and optimizer state, the activations of the largest batch, and the logits of 1,024
answer tokens. Time is a fixed part for each batch and a part for each token. The largest batch of the plan that was chosen is
then run once for real (trainer.prove_plan), before the first step.

The coefficients below were fitted to one H200 (docs/BENCHMARKS.md) and one model, Phi-4-mini, where the memory formula held
within 5%. What layers of other kinds keep was counted on a CPU, tensor by tensor (tests/training/test_plan.py).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill.config import FinetuneSection
from distill.errors import PipelineError
from distill.training.attention import find_rotary_limit
from distill.training.batches import share_rows, split_by_tokens
from distill.training.encode import EncodedExample
from distill.training.losses import TOKENS_AT_ONCE
from distill.training.precision import choose_dtype
from distill.training.processes import count_processes, take_lowest
from distill.training.students import compiles_layers, has_bitsandbytes

if TYPE_CHECKING:
    from distill.training.lesson import Lesson

GIB = 2**30  # what a "24 GB" card has 24 of
CONTEXT_BYTES = int(0.6 * GIB)  # CUDA's own, outside PyTorch's allocator
MARGIN = 0.92  # of what is left: PyTorch holds more than it uses
FOUR_BIT = 0.5 + 0.127 / 8  # bytes a weight: NF4 with double quantisation (Dettmers et al. 2023, section 3)
STATE_BYTES = 16  # a float32 adapter weight, its gradient and AdamW's two moments
LOGIT_BYTES = 8  # bfloat16 logits, float32 logits, bfloat16 slopes
HOST_SECONDS = 0.09  # to launch one batch's kernels; the GPU waits for that when the batch is small
BATCH_SECONDS = 0.02  # to read the weights once forward and once back
EFFICIENCY = 0.54  # of the measured rate of matrix products
RECOMPUTING = 1.5  # the time of a token when its activations are computed again
FIRST_LAYER = re.compile(r"(?:(?:language_model|model)\.)*layers\.0\.(.+)\.weight")  # of the decoder, beside a vision tower too
NEARLY = 1.03  # plans this close in time are equal: the one with less memory wins


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes; `query` and `key_value` are heads times their width.

    `fused`: queries, keys and values come from one linear layer, gate and up from another. `head_norms`: queries and keys are
    normed. `norms`: the others of a layer. A row of more than `rotary_limit` tokens shares its batch with none.
    """

    layers: int
    hidden: int
    query: int
    key_value: int
    feed_forward: int
    vocabulary: int
    tied: bool
    fused: bool = True
    head_norms: bool = False
    norms: int = 2
    rotary_limit: float = math.inf

    @property
    def linear(self) -> int:
        """Weights in the linear layers: queries, keys, values, output, and a gated feed-forward."""
        attention = self.hidden * (2 * self.query + 2 * self.key_value)
        return self.layers * (attention + 3 * self.hidden * self.feed_forward)

    @property
    def embeddings(self) -> int:
        """Weights in the embeddings and the output layer, which stay in 16 bits."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)


@dataclass(frozen=True)
class Plan:
    """One way to run a step; `peak_bytes` and `step_seconds` are predictions, `batches` counts a mean step's."""

    in_4bit: bool
    recompute: bool
    tokens_per_batch: int
    batches: float
    largest_tokens: int
    peak_bytes: int
    step_seconds: float

    def describe(self) -> str:
        """The plan in one line."""
        base = "4-bit base" if self.in_4bit else "base not quantised"
        kept = "activations computed again" if self.recompute else "activations kept"
        return f"{base}, {kept}, up to {self.tokens_per_batch:,} tokens at once ({self.batches:.1f} batches a step)"


def read_shape(folder: Path) -> Shape:
    """The sizes of the base model in `folder`, from its config.json and the names of its weights."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    names = list_layer_weights(folder)
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        query=config.num_attention_heads * width,
        key_value=(getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * width,
        feed_forward=config.intermediate_size,
        vocabulary=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
        fused=not any(name.endswith("q_proj") for name in names),
        head_norms=any(name.endswith("q_norm") for name in names),
        norms=sum("." not in name for name in names) or 2,
        rotary_limit=find_rotary_limit(config),
    )


def list_layer_weights(folder: Path) -> list[str]:
    """The modules with weights in the decoder's first layer, such as self_attn.o_proj and input_layernorm."""
    from safetensors import safe_open

    found = []
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as weights:
            found += [match[1] for match in map(FIRST_LAYER.fullmatch, weights.keys()) if match]
    return found


# -----------------------------------------------------------------------------
# Memory and time


def count_adapter_weights(shape: Shape, rank: int) -> int:
    """LoRA weights when every linear layer is adapted. Fused layers share an A matrix where separate ones have one each."""
    inputs = [shape.hidden * (2 if shape.fused else 5), shape.query, shape.feed_forward]
    outputs = [shape.query + 2 * shape.key_value, shape.hidden, 2 * shape.feed_forward, shape.hidden]
    return shape.layers * rank * (sum(inputs) + sum(outputs))


def count_static_bytes(shape: Shape, in_4bit: bool, rank: int) -> int:
    """Weights, adapters, gradients and optimizer state."""
    weights = shape.linear * (FOUR_BIT if in_4bit else 2) + shape.embeddings * 2
    return int(weights) + STATE_BYTES * count_adapter_weights(shape, rank)


def count_layer_bytes(shape: Shape, compiled: bool) -> int:
    """What one layer keeps of one token for the way back, in 16 bits each.

    That is the norms' inputs and outputs; queries, keys and values before and after the rotation; the attention's output;
    gate, up and their product. Layers that are not compiled keep the norms' float32 copies too, and a copy of its input for
    each adapter. Queries and keys before the rotation are kept where values are a part of them (`fused`) or a norm needs them.
    """
    values = 5 * shape.hidden + 2 * (shape.query + 2 * shape.key_value) + shape.query + 3 * shape.feed_forward
    rotated, more_norms = shape.query + shape.key_value, shape.norms - 2
    if compiled:
        values += more_norms * shape.hidden // 2 - (0 if shape.fused or shape.head_norms else rotated)
    else:
        values += (3 + 2 * more_norms) * shape.hidden + shape.query + (2 * rotated if shape.head_norms else 0)
        values += 0 if shape.fused else 3 * shape.hidden - rotated
    return 2 * values


def predict_peak(
    shape: Shape, in_4bit: bool, recompute: bool, backend: str, rank: int, tokens: int, answers: int, compiled: bool = True
) -> int:
    """Bytes at the worst moment of a batch of `tokens`, `answers` of which carry loss.

    With activations kept, that is when the logits are made. With recomputation it is then or inside one layer, whichever is
    more; plain PEFT keeps every layer's input on the GPU, Unsloth moves them to the host.
    """
    logits = LOGIT_BYTES * shape.vocabulary * min(answers, TOKENS_AT_ONCE)
    layer = count_layer_bytes(shape, compiled)
    beside = 20 * shape.hidden  # final hidden states, their gradient and norms, per token
    if not recompute:
        moving = tokens * (shape.layers * layer) + logits
    else:
        inside = layer + 2 * (shape.query + 2 * shape.key_value + 4 * shape.feed_forward)  # and the gradients on the way
        moving = max(tokens * beside + logits, tokens * inside)
        moving += tokens * 2 * shape.hidden * (shape.layers if backend == "peft" else 0)
    return count_static_bytes(shape, in_4bit, rank) + moving


def count_flops(shape: Shape, rank: int) -> float:
    """Operations of a token, forward and for the gradient of its inputs; frozen weights have no gradient of their own."""
    return 4.0 * shape.linear + 6.0 * count_adapter_weights(shape, rank)


def predict_seconds(shape: Shape, rank: int, recompute: bool, batches: Sequence[int], rate: float) -> float:
    """Seconds of one step whose batches hold these tokens, at `rate` operations a second of matrix products."""
    token = count_flops(shape, rank) * (RECOMPUTING if recompute else 1) / (rate * EFFICIENCY)
    return sum(max(HOST_SECONDS, BATCH_SECONDS + token * tokens) for tokens in batches)


# -----------------------------------------------------------------------------
# Choosing


@dataclass(frozen=True)
class Work:
    """The steps to plan for: of each, every row's tokens and answer tokens on one GPU (the one with the most, of several)."""

    steps: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest row: no batch can be planned smaller."""
        return max(tokens for step in self.steps for tokens, _ in step)

    @property
    def largest_step(self) -> int:
        """Tokens of the largest step: no batch need be planned larger."""
        return max(sum(tokens for tokens, _ in step) for step in self.steps)

    def split(self, most_tokens: int, alone_above: float = math.inf) -> list[list[tuple[int, int]]]:
        """For each step its batches as (tokens, answer tokens); rows above `alone_above` tokens are batches of their own."""
        found = []
        for step in self.steps:
            groups = split_by_tokens([tokens for tokens, _ in step], most_tokens, alone_above)
            found.append([(sum(step[row][0] for row in group), sum(step[row][1] for row in group)) for group in groups])
        return found


def describe_work(rows: Sequence[EncodedExample], steps: Sequence[Sequence[int]], gpus: int = 1) -> Work:
    """The work of one GPU when each step's rows are shared among `gpus`."""
    found = []
    for step in steps:
        shares = share_rows([len(rows[row].input_ids) for row in step], gpus)
        most = max(shares, key=lambda share: sum(len(rows[step[place]].input_ids) for place in share))
        found.append(tuple((len(rows[step[place]].input_ids), rows[step[place]].answer_tokens) for place in most))
    return Work(tuple(found))


def list_sizes(work: Work, fixed: int | Literal["auto"]) -> list[int]:
    """Tokens to consider for one batch: the largest step's, half of them, a third, and so on down to the longest row's."""
    if fixed != "auto":
        return [max(fixed, work.longest)]
    parts = range(1, work.largest_step // work.longest + 1)
    return sorted({*(math.ceil(work.largest_step / part) for part in parts), work.longest}, reverse=True)


def make_plan(
    shape: Shape, settings: FinetuneSection, work: Work, backend: str, in_4bit: bool, recompute: bool, size: int, rate: float
) -> Plan:
    """One plan with its predictions; the peak is that of its worst batch."""
    steps = work.split(size, shape.rotary_limit)
    batches = [batch for step in steps for batch in step]
    compiled = compiles_layers(backend)
    peaks = [predict_peak(shape, in_4bit, recompute, backend, settings.lora_r, *batch, compiled) for batch in set(batches)]
    seconds = [predict_seconds(shape, settings.lora_r, recompute, [tokens for tokens, _ in step], rate) for step in steps]
    return Plan(
        in_4bit, recompute, size, len(batches) / len(steps), max(tokens for tokens, _ in batches), max(peaks),
        sum(seconds) / len(seconds),
    )


def list_plans(
    shape: Shape, settings: FinetuneSection, work: Work, backend: str, rate: float, has_4bit: bool = True
) -> list[Plan]:
    """Every plan that the settings leave open; without bitsandbytes (`has_4bit`) none in 4 bits."""
    bits = [True, False] if settings.load_in_4bit == "auto" else [settings.load_in_4bit]
    kept = [False, True] if settings.gradient_checkpointing == "auto" else [settings.gradient_checkpointing]
    return [
        make_plan(shape, settings, work, backend, in_4bit, recompute, size, rate)
        for in_4bit in bits if has_4bit or not in_4bit
        for recompute in kept
        for size in list_sizes(work, settings.tokens_per_batch)
    ]


def choose_plan(plans: Sequence[Plan], vram_bytes: int) -> Plan:
    """The fastest plan whose predicted peak fits; of nearly equal ones that with the smallest peak.

    Raises PipelineError, with what to change, where none fits.
    """
    room = usable_bytes(vram_bytes) * MARGIN
    fitting = [plan for plan in plans if plan.peak_bytes <= room]
    if not fitting:
        least = min(plans, key=lambda plan: plan.peak_bytes)
        raise PipelineError(
            f"no plan fits {vram_bytes / GIB:.1f} GB of GPU memory; the smallest ({least.describe()}) needs about "
            f"{(least.peak_bytes / MARGIN + CONTEXT_BYTES) / GIB:.1f}: leave finetune.load_in_4bit, gradient_checkpointing and "
            "tokens_per_batch on auto, or lower finetune.max_length or lora_r"
        )
    fastest = min(plan.step_seconds for plan in fitting)
    return min((plan for plan in fitting if plan.step_seconds <= fastest * NEARLY), key=lambda plan: plan.peak_bytes)


def usable_bytes(vram_bytes: int) -> int:
    """What PyTorch may allocate on a card with `vram_bytes`."""
    return vram_bytes - CONTEXT_BYTES


# -----------------------------------------------------------------------------
# The card


def measure_rate(size: int = 4096, rounds: int = 20) -> float:
    """Operations a second of 16-bit matrix products on this GPU, measured in well under a second."""
    import torch

    dtype = choose_dtype()
    left, right = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
    for _ in range(3):
        left @ right
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(rounds):
        left @ right
    torch.cuda.synchronize()
    return 2.0 * size**3 * rounds / (time.perf_counter() - started)


def find_vram(settings: FinetuneSection) -> int:
    """Bytes of GPU memory that this run may use, and from here on no more: vram_gb of it, or all that is free now."""
    import torch

    free, total = torch.cuda.mem_get_info()
    if settings.vram_gb is None:
        return free + CONTEXT_BYTES  # this process has its context already
    wanted = int(settings.vram_gb * GIB)
    torch.cuda.set_per_process_memory_fraction(min(1.0, usable_bytes(wanted) / total))
    return min(wanted, free + CONTEXT_BYTES)


def plan_for_gpu(shape: Shape, settings: FinetuneSection, work: Work, backend: str) -> tuple[Plan, dict[str, Any]]:
    """The plan for this GPU, and what it was chosen by. Raises PipelineError where nothing fits."""
    vram, rate = (int(figure) for figure in take_lowest(find_vram(settings), measure_rate()))
    plans = list_plans(shape, settings, work, backend, rate, has_bitsandbytes())
    if not plans:
        raise PipelineError(
            "config.yaml finetune.load_in_4bit needs bitsandbytes: run  pip install -r requirements.txt  or set it to false"
        )
    return choose_plan(plans, vram), {"vram_bytes": vram, "matrix_tflops": round(rate / 1e12, 1), "plans": len(plans)}


def plan_for_cpu(shape: Shape, settings: FinetuneSection, work: Work, backend: str) -> tuple[Plan, dict[str, Any]]:
    """A CPU has no such limits: no 4-bit base, activations kept, a whole step at once unless the settings say otherwise."""
    size = work.largest_step if settings.tokens_per_batch == "auto" else max(settings.tokens_per_batch, work.longest)
    return make_plan(shape, settings, work, backend, False, settings.gradient_checkpointing is True, size, rate=1e11), {}


def plan_run(base: Path, settings: FinetuneSection, lesson: Lesson, backend: str) -> tuple[Plan, dict[str, Any]]:
    """The plan for this machine, printed with its predictions, and all its figures for the manifest."""
    import torch

    has_cuda, shape = torch.cuda.is_available(), read_shape(base)
    work = describe_work(lesson.rows, lesson.steps, count_processes())
    plan, chosen_by = (plan_for_gpu if has_cuda else plan_for_cpu)(shape, settings, work, backend)
    print(f"[OK] Plan: {plan.describe()}")
    if has_cuda:
        minutes = plan.step_seconds * len(lesson.steps) / 60
        print(f"[OK] Predicted: {plan.peak_bytes / GIB:.1f} GB of GPU memory at most, about {minutes:.0f} minutes")
    elif settings.load_in_4bit is True:
        print("[WARN] finetune.load_in_4bit: without a CUDA GPU the base model is loaded in float32")
    flops = count_flops(shape, settings.lora_r)
    return plan, {**asdict(plan), "words": plan.describe(), "flops_per_token": flops, **chosen_by}


def compare_peak(plan: Plan) -> dict[str, int]:
    """GPU memory used at most, printed beside the prediction; empty without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return {}
    used, held = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    error = plan.peak_bytes / used - 1
    print(f"[OK] GPU memory: predicted {plan.peak_bytes / GIB:.1f} GB at most, measured {used / GIB:.1f} ({error:+.0%})")
    return {"allocated_bytes": used, "reserved_bytes": held}
