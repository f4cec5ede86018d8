"""What only a CUDA GPU shows: rows end to end give the losses of single rows, on both backends. Skipped without one.

    CUDA_VISIBLE_DEVICES=0 python -m pytest tests/training/test_on_gpu.py

Unsloth patches what it finds, so each backend runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent
NOISE = 0.02  # bfloat16 has 8 bits: two sums over 64 tokens differ by about this share

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

SCRIPT = """
import json, random, sys
backend, folder = sys.argv[1], sys.argv[2]
if backend == "unsloth":
    import unsloth
import torch
from pathlib import Path
from distill.config import FinetuneSection
from distill.training.batches import lay_end_to_end
from distill.training.encode import IGNORE, EncodedExample
from distill.training.students import load_student

settings = FinetuneSection.model_validate({"backend": backend, "lora_r": 8, "max_length": 512})
model, adapted = load_student(backend, Path(folder), settings, recompute=sys.argv[3] == "recompute")
with torch.no_grad():
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.normal_(0, 0.02, generator=torch.Generator("cuda").manual_seed(1))
rng, rows = random.Random(0), []
for number in range(8):
    ids = [rng.randrange(10, 900) for _ in range(rng.randrange(40, 300))]
    prompt = rng.randrange(10, len(ids) - 5)
    rows.append(EncodedExample(str(number), ids, [IGNORE] * prompt + ids[prompt:]))

def learn(part):
    batch = lay_end_to_end(part, "cuda")
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(**batch.to_inputs(), predicting=batch.predicting, targets=batch.targets)
    loss.backward()
    return float(loss)

def gradients():
    found = torch.cat([weight.grad.float().flatten() for weight in model.parameters() if weight.requires_grad])
    model.zero_grad()
    return found

model.train()
singles = [learn([row]) for row in rows]
apart = gradients()
packed = learn(rows)
together = gradients()
print(json.dumps({"adapted": len(adapted), "singles": singles, "packed": packed,
                  "gradient": float((together - apart).norm() / apart.norm())}))
"""


@pytest.mark.parametrize("recompute", ["keep", "recompute"])
@pytest.mark.parametrize("backend", ["unsloth", "peft"])
def test_rows_end_to_end_learn_what_single_rows_do(backend: str, recompute: str, tiny_phi3: Path) -> None:
    if backend == "unsloth" and importlib.util.find_spec("unsloth") is None:
        pytest.skip("needs unsloth")
    command = [sys.executable, "-c", SCRIPT, backend, str(tiny_phi3), recompute]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["adapted"] == 8
    assert found["packed"] == pytest.approx(sum(found["singles"]), rel=NOISE / 4)
    assert found["gradient"] < NOISE
