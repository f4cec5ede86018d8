"""What stages 1 to 3 leave behind, made by hand for the tests of stage 4, and an Ollama that answers for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distill.config import Config, load_config
from distill.files import sha256_file, write_jsonl_atomic
from distill.manifest import FILE_NAME, write_manifest
from distill.records import TrainingExample
from tests.report.answers import make_example
from tests.servers import OllamaServer

BASE, TUNED = "student-base", "student"
CONFIG = """\
work_dir: .
export:
  name: student
evaluate:
  ollama_url: "{url}"
  bootstrap_samples: 500
  embedder: {{base_url: "{url}", query_prefix: ""}}
  {extra}
"""


class ModelServer(OllamaServer):
    """Ollama with both students. `reply(body)` gives an answer's text, or (status, payload) for a failure."""

    def __init__(self, reply: Callable[[Any], Any]) -> None:
        super().__init__(models=("nomic-embed-text:latest", f"{BASE}:latest", f"{TUNED}:latest"))
        self.reply, self.blobs = reply, {}
        self.templates = {name: "{{ range .Messages }}{{ .Content }}{{ end }}" for name in (BASE, TUNED)}
        self.stops = {name: ["<|end|>", "<|user|>"] for name in (BASE, TUNED)}

    def send_chat(self, handler: Any, body: Any) -> None:
        """An answer or a failure, as `reply` says."""
        made = self.reply(body)
        if isinstance(made, tuple):
            return handler.reply(made[1], made[0])
        self.chat = lambda _: made
        return super().send_chat(handler, body)

    def send_show(self, handler: Any, body: Any) -> None:
        """As Ollama keeps it: FROM in the Modelfile names the blob, parameters stand one a line, names padded to 30."""
        name = body["model"]
        digest, template = self.blobs.get(name), self.templates[name]
        modelfile = f"# FROM {name}\nFROM /models/blobs/sha256-{digest}\nTEMPLATE {template}\n"
        parameters = [f'{"stop":30} "{stop}"' for stop in self.stops[name]] + [f"{'num_ctx':30} 4096"]
        answer = {"modelfile": modelfile, "template": template, "parameters": "\n".join(parameters)}
        handler.reply(answer if digest else {"error": "unknown"})

    def list_chats(self) -> list[dict[str, Any]]:
        """The bodies of all chat requests, in order."""
        return [request["body"] for request in self.requests if request["path"] == "/api/chat"]

    def list_paths(self, *paths: str) -> list[tuple[str, str]]:
        """(path, model) of the requests to some paths, in order."""
        return [(request["path"], request["body"]["model"]) for request in self.requests if request["path"] in paths]


def write_config(folder: Path, url: str, extra: str = "") -> Config:
    """config.yaml, its evaluate section ending with the line `extra`."""
    (folder / "config.yaml").write_text(CONFIG.format(url=url, extra=extra), encoding="utf-8")
    return load_config(folder / "config.yaml")


def write_stages(
    config: Config, count: int = 12, *, export_base: bool = True, trained_on: str | None = None
) -> list[TrainingExample]:
    """training_data/, adapters/ and gguf/ with manifests; returns the held-out rows. `trained_on`: adapters saw another row."""
    examples = [make_example(config, number) for number in range(count)]
    train, heldout = (config.training_dir / name for name in ("train.jsonl", "heldout.jsonl"))
    write_jsonl_atomic(heldout, (example.model_dump(mode="json") for example in examples), encrypt=config.encrypt)
    if trained_on is not None:
        write_jsonl_atomic(train, [{"instruction": trained_on, "output": "x"}])
        write_stage(config, config.adapters_dir, "finetune.py", [train], [])
    write_jsonl_atomic(train, [{"instruction": "What is it?", "output": "A pump."}])
    write_stage(config, config.training_dir, "generate_training_data.py", [], [train, heldout])
    if trained_on is None:
        write_stage(config, config.adapters_dir, "finetune.py", [train], [])
    write_gguf(config, {"tuned": TUNED, "base": BASE} if export_base else {"tuned": TUNED})
    return examples


def write_gguf(config: Config, names: Mapping[str, str]) -> None:
    """gguf/ with whatever model files stand there already, or a few bytes each."""
    entries = {}
    for side, name in names.items():
        path = config.gguf_dir / f"{name}-q4_k_m.gguf"
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_bytes(f"GGUF of {name}".encode())
        modelfile = "gguf/Modelfile" if side == "tuned" else "gguf/Modelfile.base"
        entries[side] = {"file": f"gguf/{path.name}", "ollama_name": name, "modelfile": modelfile}
    outputs = [config.work_dir / entry["file"] for entry in entries.values()]
    write_stage(config, config.gguf_dir, "export_gguf.py", [], outputs, config.adapters_dir / FILE_NAME, models=entries)


def write_stage(
    config: Config, folder: Path, made_by: str, inputs: list[Path], outputs: list[Path], *manifests: Path, **details: Any
) -> None:
    """One stage's manifest."""
    folder.mkdir(exist_ok=True)
    later = {} if made_by.startswith("generate") else {"finetune.base_model": config.value_of("finetune.base_model")}
    write_manifest(
        folder, made_by=made_by, config=config, sections=["prompt"], inputs=inputs, outputs=outputs, read_manifests=manifests,
        fixed={"prompt.system": config.prompt.system, "prompt.template": config.prompt.template, **later}, counts={},
        started=time.time(), details=details,
    )


def hash_models(config: Config) -> dict[str, str]:
    """The sha256 of each GGUF by its name in Ollama, as ModelServer's `blobs`."""
    return {path.name.removesuffix("-q4_k_m.gguf"): sha256_file(path) for path in config.gguf_dir.glob("*.gguf")}


def list_spellings(path: Path) -> set[str]:
    """How a path could stand in a JSON file: as it is, with backslashes escaped, with slashes."""
    return {str(path), json.dumps(str(path))[1:-1], path.as_posix()}
