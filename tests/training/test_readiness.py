"""Each judgement on machines that are not here: cards, drivers and packages as values."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.config import Config, FinetuneSection
from distill.errors import PipelineError
from distill.training.machine import BaseSize, Measured, read_requirements
from distill.training.readiness import (
    Finding,
    check_cpu,
    check_disk,
    check_gpu,
    check_ram,
    check_readiness,
    explain_no_cuda,
    has_kernels,
    print_findings,
)

ROOT = Path(__file__).parents[2]
GB = 10**9
ARCHS = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
RTX_3090 = {"name": "NVIDIA GeForce RTX 3090", "bytes": 24 * 2**30, "capability": "8.6"}
VERSIONS = {
    "torch": "2.13.0+cu130", "transformers": "5.17.0", "peft": "0.21.2", "accelerate": "1.15.0", "bitsandbytes": "0.50.2",
    "unsloth": "2026.10.9", "unsloth_zoo": "2026.10.9", "triton": "3.7.1",
}
MACHINE = {
    "gpus": [RTX_3090], "driver": "580.65.06", "cuda": "13.0", "cudnn": "9.20.0", "torch": "2.13.0+cu130",
    "torch_archs": ARCHS, "cpu_cores": 16, "ram_bytes": 64 * GB, "platform": "Linux 6.8 x86_64", "python": "3.11.9",
}
READY = Measured(MACHINE, VERSIONS, ram_free=50 * GB, disk_free=100 * GB, gpu_free=23 * 2**30)
NO_CUDA = {"gpus": [], "driver": None, "cuda": None, "cudnn": None, "torch": "2.13.0+cpu", "torch_archs": []}
PHI_4_MINI = BaseSize(3_836_021_760, 7_672_066_032, 4_900_000_000, 1_441_792)


def on(measured: Measured = READY, **changes: Any) -> Measured:
    """The machine with other values in its description."""
    return replace(measured, machine={**measured.machine, **changes})


def with_versions(**changes: str | None) -> Measured:
    """The machine with other packages; None for one that is not installed."""
    versions = {**VERSIONS, **{name.replace("triton_windows", "triton-windows"): version for name, version in changes.items()}}
    return replace(READY, versions={name: version for name, version in versions.items() if version})


def make_config(folder: Path, **finetune: Any) -> Config:
    return Config(work_dir=folder, finetune=FinetuneSection(**finetune))


def judge(folder: Path, base: Path | None, measured: Measured, backend: str = "unsloth", **finetune: Any) -> list[Finding]:
    return check_readiness(make_config(folder, **finetune), base, backend, measured)


def list_levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


# -----------------------------------------------------------------------------
# The whole


def test_a_machine_that_is_ready_has_no_advice(tmp_path: Path, tiny_phi3: Path) -> None:
    findings = judge(tmp_path, tiny_phi3, READY)
    assert {(finding.level, finding.advice) for finding in findings} == {("OK", "")}
    text = "\n".join(finding.text for finding in findings)
    told = ("RTX 3090", "24 GB", "8.6", "580.65.06", "CUDA 13.0", "cuDNN 9.20.0", "2.13.0+cu130", "1 million parameters", "RAM")
    assert not [word for word in told if word not in text]


def test_this_machine_can_be_judged(tmp_path: Path, tiny_phi3: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_findings(check_readiness(make_config(tmp_path), tiny_phi3, "peft"))
    assert "[OK] base model: 1 million parameters" in capsys.readouterr().out


def test_warnings_are_printed_and_all_failures_raised_together(capsys: pytest.CaptureFixture[str]) -> None:
    warning = Finding("WARN", "two", "look")
    findings = [Finding("FAIL", "one", "mend it"), warning, Finding("OK", "three"), Finding("FAIL", "four")]
    with pytest.raises(PipelineError, match=r"^one: mend it\n +four$"):
        print_findings(findings)
    assert capsys.readouterr().out == "[WARN] two: look\n[OK] three\n"


@pytest.mark.parametrize(("measured", "settings", "expected"), [
    (on(torch_archs=["sm_50", "sm_60"]), {}, ("FAIL", "has no kernels for NVIDIA GeForce RTX 3090", "whl/cu130")),
    (on(gpus=[{**RTX_3090, "capability": "7.5"}]), {}, ("WARN", "no bfloat16", "float16")),
    (replace(READY, gpu_free=12 * 2**30), {}, ("WARN", "hold 12.0 GB of the GPU's memory", "ollama stop")),
    (READY, {"vram_gb": 48}, ("WARN", "finetune.vram_gb 48 is more than this card has", "null")),
    (with_versions(unsloth="2026.10.7", unsloth_zoo="2026.10.7"), {},
     ("WARN", "2.2 times as fast", "pip install --no-deps unsloth==2026.10.9 unsloth_zoo==2026.10.9")),
    (with_versions(bitsandbytes=None), {"load_in_4bit": True},
     ("FAIL", "bitsandbytes is not installed", "load_in_4bit to false")),
    (with_versions(bitsandbytes=None), {}, ("WARN", "bitsandbytes is not installed", "requirements.txt")),
    (with_versions(triton=None), {}, ("FAIL", "unsloth needs triton,", "requirements.txt")),
    (with_versions(transformers="5.16.0"), {},
     ("WARN", "transformers is 5.16.0, tested is ==5.17.0", '"transformers==5.17.0"')),
    (on(python="3.13.1"), {}, ("WARN", "Python 3.13.1 is untested", "3.11 or 3.12")),
    (replace(READY, disk_free=GB), {"lora_r": 64}, ("FAIL", "1.0 GB of disk are free", "work_dir")),
    (replace(READY, ram_free=GB), {}, ("WARN", "1.0 GB of RAM are free", "close other programs")),
])
def test_one_thing_amiss_is_one_finding_with_advice(
    tmp_path: Path, tiny_phi3: Path, measured: Measured, settings: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    amiss = [finding for finding in judge(tmp_path, tiny_phi3, measured, **settings) if finding.level != "OK"]
    assert list_levels(amiss) == [expected[0]] and expected[1] in amiss[0].text and expected[2] in amiss[0].advice


def test_windows_needs_its_own_triton(tmp_path: Path, tiny_phi3: Path) -> None:
    windows = {"platform": "Windows 11 AMD64"}
    texts = [finding.text for finding in judge(tmp_path, tiny_phi3, on(**windows)) if finding.level == "FAIL"]
    assert texts == ["unsloth needs triton-windows, which is not installed"]
    findings = judge(tmp_path, tiny_phi3, on(with_versions(triton=None, triton_windows="3.7.1.post27"), **windows))
    assert set(list_levels(findings)) == {"OK"}


def test_unsloth_is_missed_only_where_nothing_else_was_chosen(tmp_path: Path, tiny_phi3: Path) -> None:
    bare = with_versions(unsloth=None, unsloth_zoo=None, triton=None)
    assert "unsloth is not installed" in judge(tmp_path, tiny_phi3, bare, backend="peft")[0].text
    assert set(list_levels(judge(tmp_path, tiny_phi3, bare, backend="peft")[1:])) == {"OK"}
    chosen = make_config(tmp_path, backend="peft")
    assert set(list_levels(check_readiness(chosen, tiny_phi3, "peft", bare))) == {"OK"}


def test_a_missing_base_stops_and_the_rest_is_still_judged(tmp_path: Path) -> None:
    findings = judge(tmp_path, None, READY)
    assert list_levels(findings) == ["FAIL", "OK"] and "finetune.py --download" in findings[0].advice
    assert "RTX 3090" in findings[1].text


def test_weights_that_were_copied_in_part_stop(tmp_path: Path, tiny_phi3: Path) -> None:
    base = Path(shutil.copytree(tiny_phi3, tmp_path / "base"))
    shard = sorted(base.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-10])
    finding = judge(tmp_path, base, READY)[0]
    assert finding.level == "FAIL" and "copied in part" in finding.advice and "\n" not in finding.text


def test_the_tested_versions_are_those_of_the_requirements() -> None:
    wanted = read_requirements(ROOT)
    assert all(wanted[name].contains(version) for name, version in VERSIONS.items() if name in wanted)


# -----------------------------------------------------------------------------
# GPU


@pytest.mark.parametrize(("capability", "archs", "expected"), [
    ("8.6", ARCHS, True),
    ("8.9", ARCHS, True),  # runs what is compiled for 8.6
    ("12.0", ["sm_90", "sm_100"], False),  # RTX 50 under cu121
    ("12.0", ["sm_90", "compute_90"], True),  # the driver compiles it
    ("12.1", ["sm_120"], True),
    ("6.1", ARCHS, False),  # GTX 10
    ("9.0", ["sm_90a"], True),
    ("10.0", ["compute_90a"], False),
    ("10.3", ["sm_100a"], False),
    ("10.3", ["sm_100f"], True),  # f: the whole family
    ("8.6", ["gfx90a"], False),
    ("8.6", [], True),
])
def test_kernels_and_cards(capability: str, archs: list[str], expected: bool) -> None:
    assert has_kernels(capability, archs) is expected


def test_a_card_without_kernels_is_not_praised_as_well() -> None:
    assert list_levels(check_gpu(on(torch_archs=["sm_60"]), FinetuneSection())) == ["FAIL"]


# -----------------------------------------------------------------------------
# CPU


@pytest.mark.parametrize(("changes", "reason", "advice"), [
    ({}, "no CUDA GPU", ""),
    ({"driver": "580.65"}, "has no CUDA, though NVIDIA's driver 580.65 is there", "whl/cu130"),
    ({"driver": "552.22", "cuda": "13.0"}, "driver 552.22 is too old for CUDA 13.0", "580 or newer"),
    ({"driver": "552.22", "cuda": "12.8"}, "torch sees no GPU", "CUDA_VISIBLE_DEVICES"),
    ({"driver": "581.42", "cuda": "13.0"}, "torch sees no GPU", "nvidia-smi"),
])
def test_why_there_is_no_cuda(changes: dict[str, str], reason: str, advice: str) -> None:
    found = explain_no_cuda({**MACHINE, **NO_CUDA, **changes})
    assert reason in found[0] and advice in found[1] and bool(found[1]) == bool(advice)


@pytest.mark.parametrize(("driver", "hidden", "parameters", "level"), [
    (None, None, 2_000_000, "OK"),
    (None, None, PHI_4_MINI.parameters, "WARN"),
    ("580.65", None, 2_000_000, "WARN"),
    ("580.65", "", 2_000_000, "OK"),
    ("580.65", None, PHI_4_MINI.parameters, "FAIL"),
    ("580.65", "", PHI_4_MINI.parameters, "WARN"),
])
def test_a_cpu_is_well_for_a_small_student_alone(
    monkeypatch: pytest.MonkeyPatch, driver: str | None, hidden: str | None, parameters: int, level: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    findings = check_cpu(on(**{**NO_CUDA, "driver": driver}), replace(PHI_4_MINI, parameters=parameters), tokens=1_000_000)
    assert list_levels(findings) == [level]
    assert ("hours for these rows" in findings[0].text) == (level == "WARN" and parameters == PHI_4_MINI.parameters)


# -----------------------------------------------------------------------------
# Memory and disk


@pytest.mark.parametrize(("machine", "free", "level"), [
    (on(**NO_CUDA, ram_bytes=16 * GB), 15 * GB, "FAIL"),  # 15.3 GB in float32, and Python beside it
    (on(**NO_CUDA, ram_bytes=32 * GB), 15 * GB, "WARN"),
    (on(**NO_CUDA, ram_bytes=32 * GB), 30 * GB, "OK"),
    (on(ram_bytes=16 * GB), 9 * GB, "OK"),  # with a GPU one file at a time
    (on(ram_bytes=16 * GB), 7 * GB, "WARN"),
])
def test_memory_to_load_the_base(machine: Measured, free: int, level: str) -> None:
    assert list_levels(check_ram(replace(machine, ram_free=free), PHI_4_MINI)) == [level]


def test_disk_counts_what_an_unfinished_run_holds(tmp_path: Path) -> None:
    config = make_config(tmp_path)  # rank 16: 23 million values, 52 bytes each
    needed = 16 * PHI_4_MINI.lora_width * 52
    assert 1.1 * GB < needed < 1.3 * GB
    short = replace(READY, disk_free=GB + needed - 10)
    assert list_levels(check_disk(short, config, PHI_4_MINI)) == ["FAIL"]
    (config.adapters_dir / "checkpoints").mkdir(parents=True)
    (config.adapters_dir / "checkpoints" / "optimizer.pt").write_bytes(b"x" * 20)
    assert list_levels(check_disk(short, config, PHI_4_MINI)) == ["OK"]
