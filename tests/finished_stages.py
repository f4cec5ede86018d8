"""What stages 1 to 3 leave behind, made by hand for the tests of stage 4, and an Ollama that answers for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distill.config import Config, PromptSection, load_config
from distill.files import sha256_file, sha256_text, write_jsonl_atomic
from distill.gguf.chat import FORMATS, ChatFormat
from distill.gguf.modelfile import render_modelfile
from distill.manifest import FILE_NAME, write_manifest
from distill.records import TrainingExample
from tests.gguf.ollama_registry import render_known
from tests.report.answers import make_example
from tests.servers import OllamaServer, with_tag

BASE, TUNED, STOCK = "student-base", "student", "phi4-mini"
CONFIG = """\
work_dir: .
export:
  name: student
evaluate:
  ollama_url: "{url}"
  bootstrap_samples: 500
  embedder: {{base_url: "{url}", query_prefix: ""}}
  general_questions: {general}
  memory_probes: {probes}
  {extra}
"""


class ModelServer(OllamaServer):
    """Ollama with both students, and a stock model. `reply(body)` gives an answer's text, or (status, payload) for a failure;
    it sees `messages` for /api/generate too.

    Loads and evicts as Ollama does: there is room for `room` models; a model is loaded by the first request that needs it,
    again for another num_ctx, and let go after a request whose keep_alive, or else `keep_alive`, is 0. `loads` names every
    load in order. Of each student it keeps the TEMPLATE, the stops, the SYSTEM and the sha256 of the GGUF (`blobs`).
    `shows_prompts`: whether it knows _debug_render_only; `tells_loaded`: whether it knows /api/ps. `most_at_once` is how many
    answers were ever in the making together.
    """

    def __init__(self, reply: Callable[[Any], Any], keep_alive: str | int = "5m", room: int = 1) -> None:
        names = ("nomic-embed-text", BASE, TUNED, STOCK)
        super().__init__(models=[f"{name}:latest" for name in names])
        self.reply, self.keep_alive, self.room = reply, keep_alive, room
        self.blobs: dict[str, str] = {}
        self.templates = {name: FORMATS[0].template for name in (BASE, TUNED)} | {STOCK: "{{ .System }} {{ .Prompt }}"}
        self.stops = {name: list(FORMATS[0].stops) for name in (BASE, TUNED, STOCK)}
        self.systems = {BASE: PromptSection().system, TUNED: PromptSection().system, STOCK: ""}
        self.render: Callable[[str, list[Any]], str] = render_known
        self.shows_prompts = self.tells_loaded = True
        self.loads: list[str] = []
        self.held: dict[str, int] = {}  # what is in memory, with its num_ctx; the longest unused first
        self.at_once = self.most_at_once = 0

    def answer(self, handler: Any, path: str, body: Any, number: int) -> None:
        """Answer what the plain server does not know."""
        if path == "/api/ps" and not self.tells_loaded:
            return handler.reply("404 page not found", 404)
        if path == "/api/ps":
            held = [{"name": with_tag(name), "context_length": size} for name, size in self.held.items()]
            return handler.reply({"models": held})
        if path == "/api/tags":
            listed = [{"name": name, "digest": sha256_text(name), "size": len(name)} for name in self.models]
            return handler.reply({"models": listed})
        return super().answer(handler, path, body, number)

    def bring(self, body: Any) -> bool:
        """Have the model in memory, and no more than there is room for; whether it had to be loaded."""
        name, size = body["model"], body.get("options", {}).get("num_ctx", 4096)
        with self._lock:
            new = self.held.pop(name, None) != size
            self.held[name] = size
            if new:
                self.loads.append(name)
            for oldest in list(self.held)[: -self.room]:
                del self.held[oldest]
        return new

    def let_go(self, body: Any) -> None:
        """After a request: a keep_alive of 0 frees the memory at once."""
        if body.get("keep_alive", self.keep_alive) == 0:
            with self._lock:
                self.held.pop(body["model"], None)

    def send_chat(self, handler: Any, body: Any) -> None:
        """An answer or a failure, as `reply` says, or the prompt that was made."""
        self.send_made(handler, body, body["messages"], lambda text: {"message": {"role": "assistant", "content": text}})

    def send_generate(self, handler: Any, body: Any) -> None:
        """The same for one prompt; without one it is about loading alone."""
        if body.get("prompt"):
            messages = [{"role": "user", "content": body["prompt"]}]
            return self.send_made(handler, body, messages, lambda text: {"response": text})
        if body.get("keep_alive") != 0:
            self.bring(body)
        self.let_go(body)
        handler.reply({"model": body["model"], "response": "", "done": True, "done_reason": "load"})

    def send_made(self, handler: Any, body: Any, messages: list[Any], wrap: Callable[[str], dict[str, Any]]) -> None:
        """What both endpoints do."""
        new, system = self.bring(body), self.systems[body["model"]]
        if system and not body.get("raw") and messages[0]["role"] != "system":
            served = [{"role": "system", "content": system}, *messages]
        else:
            served = messages
        if body.get("_debug_render_only") and self.shows_prompts:
            prompt = self.render(self.templates[body["model"]], served)
            handler.reply({"model": body["model"], "done": False, "_debug_info": {"rendered_template": prompt}})
        else:
            self.send_reply(handler, {**body, "messages": messages}, served, new, wrap)
        self.let_go(body)

    def send_reply(self, handler: Any, body: Any, served: list[Any], new: bool, wrap: Callable[[str], dict[str, Any]]) -> None:
        """A token is a word; loading takes two seconds, on paper."""
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        made = self.reply(body)
        with self._lock:
            self.at_once -= 1
        if isinstance(made, tuple):
            return handler.reply(made[1], made[0])
        handler.reply({
            "model": body["model"], **wrap(made), "done": True, "done_reason": "stop", "total_duration": 2_100_000_000,
            "load_duration": 2_000_000_000 if new else 20_000_000, "prompt_eval_duration": 30_000_000,
            "prompt_eval_count": sum(len(message["content"].split()) for message in served),
            "eval_count": len(made.split()), "eval_duration": 50_000_000,
        })

    def send_show(self, handler: Any, body: Any) -> None:
        """As Ollama keeps it: FROM in the Modelfile names the blob, parameters stand one a line, names padded to 30."""
        name = body["model"]
        digest, template, system = self.blobs.get(name), self.templates[name], self.systems[name]
        modelfile = f"# FROM {name}\nFROM /models/blobs/sha256-{digest}\nTEMPLATE {template}\n"
        parameters = [f'{"stop":30} "{stop}"' for stop in self.stops[name]] + [f"{'num_ctx':30} 4096"]
        answer = {"modelfile": modelfile, "template": template, "parameters": "\n".join(parameters)}
        answer |= {"system": system} if system else {}
        handler.reply(answer if digest else {"error": "unknown"})

    def list_chats(self) -> list[dict[str, Any]]:
        """The bodies of all questions, in order, whichever the endpoint."""
        bodies = [request["body"] for request in self.requests if request["path"] in ("/api/chat", "/api/generate")]
        return [body for body in bodies if ("messages" in body or "prompt" in body) and "_debug_render_only" not in body]

    def list_paths(self, *paths: str) -> list[tuple[str, str]]:
        """(path, model) of the requests to some paths, in order."""
        return [(request["path"], request["body"]["model"]) for request in self.requests if request["path"] in paths]


def write_config(folder: Path, url: str, extra: str = "", *, general: bool = False, probes: int = 0) -> Config:
    """config.yaml, its evaluate section ending with the line `extra`; with general questions and memory probes if wanted."""
    text = CONFIG.format(url=url, extra=extra, general=str(general).lower(), probes=probes)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
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
    """gguf/ with whatever model files and Modelfiles stand there already, or a few bytes each."""
    entries = {}
    for side, name in names.items():
        path = config.gguf_dir / f"{name}-q4_k_m.gguf"
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_bytes(f"GGUF of {name}".encode())
        modelfile = "gguf/Modelfile" if side == "tuned" else "gguf/Modelfile.base"
        write_modelfile(config, config.work_dir / modelfile, path.name)
        entries[side] = {"file": f"gguf/{path.name}", "ollama_name": name, "modelfile": modelfile}
    outputs = [config.work_dir / entry["file"] for entry in entries.values()]
    write_stage(config, config.gguf_dir, "export_gguf.py", [], outputs, config.adapters_dir / FILE_NAME, models=entries)


def write_modelfile(config: Config, path: Path, gguf: str, format: ChatFormat = FORMATS[0]) -> None:
    """A Modelfile as stage 3 writes it, unless there is one."""
    if not path.exists():
        system, num_ctx = config.prompt.system, config.export.num_ctx
        text = render_modelfile(gguf, format=format, system=system, temperature=0.1, top_p=0.9, top_k=40, num_ctx=num_ctx)
        path.write_text(text, encoding="utf-8", newline="\n")


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
