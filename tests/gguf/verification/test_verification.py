"""All files of an export at once; tests/gguf/verification/test_*.py take each check apart."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.errors import PipelineError
from distill.gguf import convert as convert_module
from distill.gguf.chat import ChatFormat, recognise_format
from distill.gguf.convert import Output, convert
from distill.gguf.families import read_model
from distill.gguf.verification import Checks, logits, plan_references, verify_outputs
from distill.gguf.verification.lines import describe_checks
from tests.gguf.verification.test_held_out import make_row
from tests.tiny_models import invent_sentences

SECRET = "The secret torque is 45 Nm."


@pytest.fixture(scope="module")
def chat_format(tiny_phi3: Path) -> ChatFormat:
    return recognise_format(tiny_phi3)


@pytest.fixture(scope="module")
def quants(outputs: list[Output]) -> list[Output]:
    """Tuned and base as q4_k_m."""
    return [output for output in outputs if output.quantization == "q4_k_m"]


@pytest.fixture(scope="module")
def full(
    tiny_phi3: Path, tiny_lora: Path, quants: list[Output], chat_format: ChatFormat, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[Path, Checks], int]:
    """A full verification and the number of files that it reported."""
    references = plan_references(quants, "full", tmp_path_factory.mktemp("references"))
    convert(tiny_phi3, tiny_lora, references)
    done: list[int] = []
    checks = verify_outputs(
        tiny_phi3, tiny_lora, quants, mode="full", chat_format=chat_format, texts=[*invent_sentences(20), SECRET],
        examples=[make_row(90, 30, seed) for seed in range(4)], references=references, positions=12,
        advance=lambda: done.append(1),
    )
    return checks, len(done)


def test_full_has_every_check_of_every_output(full: tuple[dict[Path, Checks], int], quants: list[Output]) -> None:
    checks, reported = full
    assert list(checks) == [output.path for output in quants]
    assert reported == 4
    for found in checks.values():
        assert list(found) == ["structure", "weights", "tokenization", "chat_template", "logits", "conversion", "quantisation"]
        assert all(check["passed"] for check in found.values())
        assert found["tokenization"]["texts"] == 21
        assert found["conversion"]["mean_kl"] < found["logits"]["mean_kl"] < found["quantisation"]["mean_kl"] < 0.2
        assert found["quantisation"]["published_kl"] == 0.031
        assert (found["quantisation"]["rows"], found["quantisation"]["positions"]) == (4, 120)


def test_what_is_written_is_json_and_holds_no_text(full: tuple[dict[Path, Checks], int], quants: list[Output]) -> None:
    for path, checks in full[0].items():
        written = json.dumps(checks, allow_nan=False) + "\n".join(describe_checks(path.name, checks))
        assert "secret" not in written
        assert "NaN" not in json.dumps(checks)


def test_lines_say_figures_and_limits(full: tuple[dict[Path, Checks], int], quants: list[Output]) -> None:
    lines = describe_checks("a.gguf", full[0][quants[0].path])
    assert len(lines) == 7
    assert all(line.startswith("[OK] a.gguf: ") and line.isascii() and "\n" not in line for line in lines)
    for wanted in ("16 tensors", "of the adapter's update", "21 training texts and 7 special", "phi-4-mini", "(limit 1.0e-04)",
                   "published for Llama-3-8B: 0.031", "over 4 held-out rows"):
        assert sum(wanted in line for line in lines) == 1, wanted


def test_a_line_warns_of_texts_that_llama_cpp_splits_otherwise() -> None:
    check = {"texts": 9, "special_tokens": 2, "different": 3, "limit": 0, "explained": {"keeps marks; llama.cpp cuts": 3}}
    assert describe_checks("a.gguf", {"tokenization": check}) == [
        "[WARN] a.gguf: tokens: 9 training texts and 2 special tokens; 3 texts become other tokens than in training, because "
        "the tokenizer keeps marks; llama.cpp cuts"
    ]


def test_quick_needs_no_reference(
    tiny_phi3: Path, tiny_lora: Path, quants: list[Output], chat_format: ChatFormat
) -> None:
    checks = verify_outputs(tiny_phi3, tiny_lora, quants, mode="quick", chat_format=chat_format, positions=6)
    assert all(list(found) == ["structure", "weights", "tokenization", "chat_template", "logits"] for found in checks.values())


def test_none_reads_the_files_alone(
    tiny_phi3: Path, tiny_lora: Path, outputs: list[Output], chat_format: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.gguf.verification.LlamaModel", None)
    checks = verify_outputs(tiny_phi3, tiny_lora, outputs, mode="none", chat_format=chat_format)
    assert all(list(found) == ["structure"] for found in checks.values())


def test_an_f16_output_is_the_reference_of_its_side(
    tiny_phi3: Path, tiny_lora: Path, tuned_gguf: dict[str, Path], chat_format: ChatFormat, tmp_path: Path
) -> None:
    outputs = [Output(path, quantization, "tiny", True) for quantization, path in reversed(tuned_gguf.items())]
    assert plan_references(outputs, "full", tmp_path) == []
    checks = verify_outputs(tiny_phi3, tiny_lora, outputs[1:], mode="full", chat_format=chat_format, positions=6)
    assert "quantisation" not in checks[tuned_gguf["f16"]]
    # Without held-out rows the built-in texts serve, and there is no perplexity.
    assert "change" not in checks[tuned_gguf["q4_k_m"]]["quantisation"]
    assert len(describe_checks("a", checks[tuned_gguf["q4_k_m"]])) == 7


@pytest.mark.parametrize(("mode", "quantizations", "expected"), [
    ("quick", ("q4_k_m",), []), ("none", ("q4_k_m",), []), ("full", ("q4_k_m", "q8_0"), ["tuned", "base"]),
    ("full", ("q4_k_m", "f16"), []), ("full", ("bf16",), ["tuned", "base"]),
])
def test_references(tmp_path: Path, mode: Any, quantizations: tuple[str, ...], expected: list[str]) -> None:
    outputs = [Output(tmp_path / f"{kind}{side}", kind, side, side == "t") for side in "tb" for kind in quantizations]
    found = plan_references(outputs, mode, tmp_path)
    assert {(each.path.name, each.quantization, each.name) for each in found} == {
        (f"reference-{side}.gguf.part", "f16", side[0]) for side in expected
    }


@pytest.mark.parametrize(("change", "problem"), [
    ({"constants": {}}, "tensors differ"),
    ({"tuned": False}, "weights: .*adapter"),
])
def test_one_wrong_file_fails_all_in_one_line(
    tiny_phi3: Path, tiny_lora: Path, quants: list[Output], chat_format: ChatFormat, tmp_path: Path, change: dict[str, Any],
    problem: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = Output(tmp_path / "wrong.gguf", "q8_0", "tiny", change.get("tuned", True))
    if "constants" in change:
        model = dataclasses.replace(read_model(tiny_phi3), **change)
        monkeypatch.setattr(convert_module, "read_model", lambda _: model)
    convert(tiny_phi3, tiny_lora, [wrong])
    with pytest.raises(PipelineError, match=rf"^wrong\.gguf failed verification: {problem}") as raised:
        verify_outputs(
            tiny_phi3, tiny_lora, [quants[0], dataclasses.replace(wrong, tuned=True)], mode="quick", chat_format=chat_format,
            positions=6,
        )
    assert "\n" not in str(raised.value)


def test_a_16_bit_file_of_other_weights_fails_against_the_merged_model(
    tiny_phi3: Path, tiny_lora: Path, base_gguf: dict[str, Path], chat_format: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.gguf.verification.weights.check_weights", lambda *_: {"passed": True})
    files = [Output(base_gguf["f16"], "f16", "tiny", True)]
    with pytest.raises(PipelineError, match=r"base-f16\.gguf failed verification: conversion: .* nats \(limit 1\.0e-04\)"):
        verify_outputs(tiny_phi3, tiny_lora, files, mode="full", chat_format=chat_format, positions=6)


def list_mapped() -> str:
    return Path("/proc/self/maps").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("good", [True, False])
def test_no_file_stays_mapped(
    tiny_phi3: Path, tiny_lora: Path, tuned_gguf: dict[str, Path], chat_format: ChatFormat, tmp_path: Path, good: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = Path(shutil.copyfile(tuned_gguf["q4_k_m"], tmp_path / "mapped.gguf"))
    if not good:
        monkeypatch.setattr(logits, "KL_FLOOR", 0.0)
        monkeypatch.setattr(logits, "NOISE_FACTOR", 0.0)
    outputs = [Output(path, "q4_k_m", "tiny", True)]
    try:
        verify_outputs(tiny_phi3, tiny_lora, outputs, mode="quick", chat_format=chat_format, positions=6)
        assert good
    except PipelineError as error:
        assert not good
        assert str(path) not in list_mapped()
        assert "logits" in str(error)
    assert str(path) not in list_mapped()
