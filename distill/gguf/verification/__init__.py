"""
Is a GGUF the model that was trained? `verify_outputs` answers for all files of one export.

structure: the file alone. weights: the file against base and adapter. text: tokens and chat template. logits: llama.cpp
against Hugging Face. held_out: the price of the quantisation, against a 16-bit GGUF. lines: for the console.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from distill.gguf.chat import ChatFormat
from distill.gguf.convert import Output
from distill.gguf.families import read_model
from distill.gguf.families.common import Model
from distill.gguf.merge import MergedWeights, load_adapter
from distill.gguf.shards import BaseWeights
from distill.gguf.verification import held_out, logits, text, weights
from distill.gguf.verification.logits import Agreement
from distill.gguf.verification.structure import check_structure, leave_nothing_mapped
from distill.llamacpp import LlamaModel

Mode = Literal["quick", "full", "none"]
Checks = dict[str, dict[str, Any]]

POSITIONS = 32  # compared with Hugging Face for each GGUF; each costs llama.cpp about a second with Phi-4-mini
PROBE_CONTEXT = 512


@dataclass(frozen=True)
class Answers:
    """What llama.cpp with one file predicted: at the probe's places, and before the answers' tokens of held-out rows."""

    probe: logits.Distributions
    states: held_out.States | None


def plan_references(outputs: Sequence[Output], mode: Mode, folder: Path) -> list[Output]:
    """
    The 16-bit files that `full` needs and `outputs` lack, one a side at most: convert them in the same read as the outputs,
    pass them to `verify_outputs`, delete them.
    """
    sides = {output.tuned: output for output in reversed(outputs)} if mode == "full" else {}
    present = {output.tuned for output in outputs if output.quantization == "f16"}
    return [
        Output(folder / f"reference-{'tuned' if tuned else 'base'}.gguf.part", "f16", output.name, tuned)
        for tuned, output in sides.items()
        if tuned not in present
    ]


@leave_nothing_mapped()
def verify_outputs(
    base_folder: Path,
    adapter_folder: Path | None,
    outputs: Sequence[Output],
    *,
    mode: Mode,
    chat_format: ChatFormat,
    texts: Iterable[str] = (),
    examples: Sequence[held_out.Example] = (),
    references: Sequence[Output] = (),
    positions: int = POSITIONS,
    advance: Callable[[], object] = lambda: None,
) -> dict[Path, Checks]:
    """
    Verify every output, and the references of `plan_references`; returns for each output its checks, ready for JSON.

    mode: none reads the files alone; quick compares some of each file's weights with base and adapter, and llama.cpp with
    Hugging Face holding the file's own weights; full also compares a 16-bit GGUF with Hugging Face holding base and adapter,
    merged in float32, and each output with that GGUF.
    texts: of the training data, for the tokens. examples: encoded held-out rows, for `full`. advance: called after each file.
    Raises PipelineError, one line, for the first check that fails. No file stays mapped into memory, whatever happens.
    """
    work = Verification(base_folder, adapter_folder, mode, chat_format, texts, examples, positions)
    checks = work.run([*references, *outputs], advance)
    return {output.path: checks[output.path] for output in outputs}


class Verification:
    """One run over all files of an export."""

    def __init__(
        self, base_folder: Path, adapter_folder: Path | None, mode: Mode, chat_format: ChatFormat, texts: Iterable[str],
        examples: Sequence[held_out.Example], positions: int,
    ) -> None:
        self.model: Model = read_model(base_folder)
        self.mode, self.chat_format, self.adapter_folder = mode, chat_format, adapter_folder
        self._texts: Iterable[str] | None = texts
        self._rows = held_out.pick_rows(examples) if mode == "full" else []
        self._probe = logits.make_probe(base_folder, positions) if mode != "none" else None
        self._tokenization: dict[str, Any] = {}
        self._sixteen_bit: dict[bool, tuple[Answers, dict[str, Any]]] = {}

    def run(self, files: Sequence[Output], advance: Callable[[], object]) -> dict[Path, Checks]:
        """The checks of every file; for `full`, f16 files come first, since the others are compared with them."""
        checks: dict[Path, Checks] = {}
        for file in files:
            checks[file.path] = {"structure": {**check_structure(file.path, self.model, file.quantization), "passed": True}}
        for file in sorted(files, key=lambda file: file.quantization != "f16"):
            if self.mode != "none":
                with self._merge(file) as merged:
                    checks[file.path]["weights"] = weights.check_weights(file.path, self.model, merged)
                checks[file.path] |= self._check_in_llama_cpp(file)
            advance()
        return checks

    @contextmanager
    def _merge(self, file: Output) -> Iterator[MergedWeights]:
        with BaseWeights(self.model.folder) as base:
            yield MergedWeights(base, load_adapter(self.adapter_folder) if file.tuned and self.adapter_folder else None)

    def _check_in_llama_cpp(self, file: Output) -> Checks:
        checks, answers = self._ask(file)
        own = logits.read_gguf_weights(file.path, self.model)
        found, noise = self._compare(file, own, answers)
        limit = logits.require_agreement(file.path, found, noise)
        checks["logits"] = {**asdict(found), "rounding_alone": noise.mean_kl, "limit": limit, "passed": True}
        if self.mode == "full":
            checks |= self._check_against_16_bit(file, answers)
        return checks

    def _ask(self, file: Output) -> tuple[Checks, Answers]:
        longest = max((len(row.input_ids) for row in self._rows), default=0)
        context = max(PROBE_CONTEXT, longest)
        with LlamaModel(file.path, n_ctx=context, longest_text=context if self._rows else 0) as llama:
            if self._texts is not None:
                # Once is enough: that all files hold the same tokenizer has just been checked, key by key.
                self._tokenization, self._texts = text.check_tokenization(llama, self.model, self._texts), None
            checks = {
                "tokenization": self._tokenization,
                "chat_template": text.check_templates(llama, self.model, self.chat_format),
            }
            states = held_out.ask_states(llama, self._rows) if self._rows else None
            return checks, Answers(logits.ask_llama(llama, self._probe), states)

    def _compare(self, file: Output, source: logits.WeightSource, answers: Answers) -> tuple[Agreement, Agreement]:
        """llama.cpp against Hugging Face with these weights, and what rounded activations explain of that."""
        rounding = logits.read_rounding(file.path, self.model)
        exact, rounded = logits.compute_both(self.model, source, self._probe, rounding)
        return logits.measure_agreement(exact, answers.probe), logits.measure_agreement(exact, rounded)

    def _check_against_16_bit(self, file: Output, answers: Answers) -> Checks:
        if file.quantization == "f16":
            if file.tuned not in self._sixteen_bit:
                self._sixteen_bit[file.tuned] = answers, self._check_conversion(file, answers)
            return {"conversion": self._sixteen_bit[file.tuned][1]}
        reference, conversion = self._sixteen_bit[file.tuned]
        return {"conversion": conversion, "quantisation": self._check_quantisation(file, reference, answers)}

    def _check_conversion(self, file: Output, answers: Answers) -> dict[str, Any]:
        with self._merge(file) as merged:
            found, noise = self._compare(file, logits.read_merged_weights(merged, self.model), answers)
        limit, share = logits.require_exactness(file.path, found, noise)
        return {**asdict(found), "rounding_alone": noise.mean_kl, "limit": limit, "limit_top1": share, "passed": True}

    def _check_quantisation(self, file: Output, reference: Answers, answers: Answers) -> dict[str, Any]:
        loss: dict[str, Any] = {}
        if reference.states is None or answers.states is None:
            found = logits.measure_agreement(reference.probe, answers.probe)
        else:
            targets = held_out.list_targets(self._rows)
            found, measured = held_out.compare_states(reference.states, answers.states, targets, self.model)
            loss = {"rows": len(self._rows), **asdict(measured)}
        limit = held_out.require_likeness(file.path, found)
        published = held_out.PUBLISHED_KL.get(file.quantization)
        return {**asdict(found), **loss, "published_kl": published, "limit": limit, "passed": True}
