"""
One row of train_speed.py's table that is not ours, in a process of its own: TRL's SFTTrainer with Unsloth or with plain PEFT.

    python benchmarks/train_peers.py --peer unsloth-tutorial --base FOLDER --rows FILE --steps 25 --effective 8 --out FILE

--rows holds {"prompt", "completion"} in the order in which they are to be learnt. unsloth-tutorial has the settings
of Unsloth's own notebooks, on all four kinds of module: 2 rows at once, the rest accumulated, recomputation, 8-bit AdamW, and
whatever Unsloth decides about padding. trl-packing is TRL + PEFT + bitsandbytes with sequences of 2,048 packed tokens.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

STARTED = time.time()
MODULES = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
MAX_LENGTH = 2048
END = "<|end|>"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=["unsloth-tutorial", "trl-packing"], required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--effective", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def load_unsloth(base: Path) -> tuple[Any, Any]:
    """Model and tokenizer as the notebooks load them."""
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=str(base), max_seq_length=MAX_LENGTH, load_in_4bit=True, dtype=None, use_exact_model_name=True,
        local_files_only=True,
    )
    model = FastLanguageModel.get_peft_model(
        model, r=16, target_modules=MODULES, lora_alpha=16, lora_dropout=0, bias="none",
        use_gradient_checkpointing="unsloth", random_state=42,
    )
    return model, tokenizer


def load_plain(base: Path) -> tuple[Any, Any]:
    """The QLoRA recipe of TRL's and PEFT's documentation."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, quantization_config=nf4, device_map={"": 0})
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=True)
    lora = LoraConfig(r=16, lora_alpha=16, target_modules=MODULES, task_type="CAUSAL_LM")
    return get_peft_model(model, lora), AutoTokenizer.from_pretrained(base)


def describe_training(args: argparse.Namespace) -> dict[str, Any]:
    """SFTConfig's arguments. A packed sequence of 2,048 tokens holds about two rows of these."""
    packed = args.peer == "trl-packing"
    at_once = max(1, args.effective // 4) if packed else 2
    return {
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": 2 if packed else args.effective // 2,
        "packing": packed, "max_length": MAX_LENGTH, "max_steps": args.steps, "warmup_steps": 5, "learning_rate": 2e-4,
        "optim": "adamw_8bit", "weight_decay": 0.01, "lr_scheduler_type": "linear", "bf16": True, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "seed": 42, "disable_tqdm": True, "train_sampling_strategy": "sequential",
        "gradient_checkpointing": True, "output_dir": str(args.out.parent / "trainer"), "completion_only_loss": True,
    }


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train, and return every step's end, loss and tokens."""
    if args.peer == "unsloth-tutorial":
        import unsloth  # noqa: F401 - must come before trl
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = load_unsloth(args.base) if args.peer == "unsloth-tutorial" else load_plain(args.base)
    tokenizer.eos_token = END  # the rows end with it already; TRL would add another end
    rows = [json.loads(line) for line in args.rows.read_text(encoding="utf-8").splitlines()]
    steps: list[dict[str, float]] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, *unused: Any, **more: Any) -> None:
            if not steps:
                steps.append({"started": time.time() - STARTED})

        def on_log(self, arguments: Any, state: Any, control: Any, logs: dict[str, Any], **more: Any) -> None:
            if "loss" in logs:
                steps.append({"at": time.time(), "loss": float(logs["loss"]), "tokens": float(logs.get("num_tokens", 0))})

    data = Dataset.from_list([{"prompt": row["prompt"], "completion": row["completion"]} for row in rows])
    settings = SFTConfig(**describe_training(args))
    trainer = SFTTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer, callbacks=[Watch()])
    trainer.train()
    return {
        "startup_seconds": steps[0]["started"], "steps": steps[1:], "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "trainable": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
    }


def main() -> None:
    args = parse_args()
    args.out.write_text(json.dumps(train(args)), encoding="utf-8")


if __name__ == "__main__":
    main()
