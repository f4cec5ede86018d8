"""
`export_gguf.py --register`: the exported models into Ollama, and the proof that Ollama serves what was exported.

`ollama create` reads the Modelfile that ships, with Ollama's own parser; what it made of it is then asked over the API: the
file, the system prompt, the parameters, and the prompts, byte for byte those of the base model's own chat template. A model
that is replaced stays under a dated name. Tested against replies as Ollama's documentation and source give them; never run
against an Ollama.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config import Config
from distill.errors import PipelineError
from distill.files import sha256_file
from distill.gguf.chat import CONVERSATIONS, ChatFormat, count_common, describe_difference, load_tokenizer, render_jinja
from distill.gguf.modelfile import Modelfile, read_modelfile
from distill.gguf.outputs import Job, require_disk_space, require_own_name
from distill.network import is_loopback
from distill.ollama import OllamaClient, OllamaError, find_blob
from distill.prompts import Message

# Of September 2025. Older ones do not run all of our families, and do not show the prompt that they would send.
MINIMUM = (0, 12)
DEFAULT_URL = "http://127.0.0.1:11434"
ANSI_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Prompt:
    """Messages to send, and the texts that may come of them: with and without BOS."""

    messages: list[Message]
    texts: tuple[str, str]


def register_all(
    config: Config, folder: Path, jobs: Sequence[Job], format: ChatFormat, base: Path, client: OllamaClient | None = None
) -> list[str]:
    """
    Have every job's model in Ollama, check it there and say how to take it back; returns the names.

    base: the folder of the base model, whose chat template is the reference. Raises PipelineError, one line, when Ollama is not
    on PATH, not running or too old, when its disk is too full, and when it serves anything else than was exported.
    """
    for job in jobs:
        require_own_name(job.ollama_name)
    program = find_program()
    client = client or OllamaClient(config.evaluate.ollama_url, config.evaluate.timeout_seconds)
    print(f"[OK] Ollama {require_version(client)} at {client.base_url}")
    sums = {job.gguf: sha256_file(folder / job.gguf) for job in jobs}
    require_room(client, [folder / gguf for gguf, sha256 in sums.items() if not client.has_blob(sha256)])
    tokenizer, undo = load_tokenizer(base), []
    for job in jobs:
        wanted = read_modelfile(folder / job.modelfile)
        commands = register(client, program, folder, job, sums[job.gguf], wanted)
        try:
            check_model(client, job.ollama_name, sums[job.gguf], wanted, list_prompts(tokenizer, format, wanted.system))
        except PipelineError as error:
            raise PipelineError(f"{error}. To take it back: {', then '.join(commands) or 'nothing was changed'}") from None
        undo += commands
    print_undo(client, undo)
    return [job.ollama_name for job in jobs]


# -----------------------------------------------------------------------------
# Before anything is changed


def find_program() -> str:
    """The `ollama` executable."""
    program = shutil.which("ollama")
    if not program:
        raise PipelineError(
            "ollama is not on PATH: install Ollama (ollama.com), open a new terminal, and run this again"
        )
    return program


def require_version(client: OllamaClient) -> str:
    """Ollama's version. Raises PipelineError for one that is too old; a build without a number passes."""
    version = client.version()
    found = re.match(r"v?(\d+)\.(\d+)\.\d+", version)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    if (0, 0) < number < MINIMUM:
        least = ".".join(map(str, MINIMUM))
        raise PipelineError(f"Ollama {version} at {client.base_url} is older than {least}: update it (ollama.com/download)")
    return version


def require_room(client: OllamaClient, files: Sequence[Path]) -> None:
    """Raises PipelineError when Ollama, on this machine, has no room for its copy of the files."""
    if files and is_loopback(client.base_url):
        require_disk_space(find_store(), sum(path.stat().st_size for path in files))


def find_store() -> Path:
    """Where Ollama on this machine keeps its models: as told, a user's own, or the Linux service's."""
    places = (os.environ.get("OLLAMA_MODELS"), Path.home() / ".ollama" / "models", "/usr/share/ollama", Path.home())
    # os.path: the service's folder may be closed to us, where Path.exists would raise.
    return next(Path(place) for place in places if place and os.path.exists(place))


# -----------------------------------------------------------------------------
# One model


def register(client: OllamaClient, program: str, folder: Path, job: Job, sha256: str, wanted: Modelfile) -> list[str]:
    """Create the model, unless Ollama holds the same one; returns the commands that take it back."""
    name, commands = job.ollama_name, [f"ollama rm {job.ollama_name}"]
    if client.has_model(name):
        if not list_differences(client.show(name), sha256, wanted):
            print(f"[SKIP] {name} is in Ollama already, made from this {job.gguf} and {job.modelfile}")
            return []
        kept = f"{name}:replaced-{time.strftime('%Y%m%d-%H%M%S')}"
        client.copy(name, kept)
        print(f"[OK] the {name} that Ollama had is now also {kept}")
        commands = [f"ollama cp {kept} {name}", f"ollama rm {kept}"]
    create(program, client.base_url, name, folder / job.modelfile)
    return commands


def create(program: str, url: str, name: str, modelfile: Path) -> None:
    """Run `ollama create`. Raises PipelineError with its last line when it fails."""
    done = subprocess.run(
        [program, "create", name, "-f", str(modelfile)], env={**os.environ, "OLLAMA_HOST": url}, cwd=modelfile.parent,
        stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False,
    )
    if done.returncode:
        lines = ANSI_CODES.sub("\n", f"{done.stdout}\n{done.stderr}").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "no reason given")
        raise PipelineError(f"ollama create {name} failed: {said}")


def check_model(client: OllamaClient, name: str, sha256: str, wanted: Modelfile, prompts: Sequence[Prompt]) -> None:
    """Raises PipelineError when Ollama would serve the model with anything else than its Modelfile says."""
    shown = client.show(name)
    differences = list_differences(shown, sha256, wanted)
    if differences:
        raise PipelineError(f"{name} in Ollama has another {' and another '.join(differences)} than its Modelfile says")
    try:
        compared = compare_prompts(client, name, prompts)
    finally:
        unload(client, name)
    if not compared:
        print(f"[WARN] {name} is in Ollama, which does not show its prompts: they were not compared")
        return
    source = "TEMPLATE" if shown.get("template") == wanted.template else "the GGUF's own chat template"
    print(f"[OK] {name} is in Ollama; {compared} prompts, made by {source}, are those of the base model's tokenizer")


def list_differences(shown: Mapping[str, Any], sha256: str, wanted: Modelfile) -> list[str]:
    """In what a model in Ollama differs from its GGUF and its Modelfile; what Ollama does not tell is taken for the same."""
    # Where Ollama prefers the GGUF's Jinja, that stands under "template", and ours in the Modelfile alone.
    texts = (shown.get("template") or "", shown.get("modelfile") or "")
    present = read_parameters(shown.get("parameters") or "")
    parameters = read_parameters("\n".join(f"{name} {value}" for name, value in wanted.parameters))
    same = {
        "file": find_blob(shown) in ("", sha256),
        "TEMPLATE": any(wanted.template in text for text in texts),
        "SYSTEM": (shown.get("system") or "") == wanted.system,
        "parameter": all(present.get(name) == values for name, values in parameters.items()),
    }
    return [what for what, equal in same.items() if not equal]


def read_parameters(text: str) -> dict[str, list[float | str]]:
    """Lines of name and value by name, sorted: numbers as numbers, texts without their quotes."""
    values: dict[str, list[float | str]] = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        values.setdefault(name, []).append(read_value(value.strip()))
    return {name: sorted(found, key=str) for name, found in values.items()}


def read_value(text: str) -> float | str:
    """A number, or a text; Go quotes a text as JSON does, but for characters that no stop has."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return float(value) if isinstance(value, (int, float)) else str(value)


# -----------------------------------------------------------------------------
# Prompts


def list_prompts(tokenizer: Any, format: ChatFormat, system: str) -> list[Prompt]:
    """What the tokenizer's own template makes of some conversations under this SYSTEM; whether Ollama shows BOS is its own."""
    prompts = []
    for sent in map(format.tidy, CONVERSATIONS):
        own = bool(system) and sent[0]["role"] != "system"
        text = render_jinja(tokenizer, [{"role": "system", "content": system}, *sent] if own else sent) or ""
        prompts.append(Prompt(sent, (text, text.removeprefix(tokenizer.bos_token or ""))))
    return prompts


def compare_prompts(client: OllamaClient, name: str, prompts: Sequence[Prompt]) -> int:
    """How many prompts were compared: 0 for an Ollama that does not show them. Raises PipelineError for one that differs."""
    compared = 0
    for prompt in prompts:
        shown = [client.render_chat(name, prompt.messages)]
        if len(prompt.messages) == 1 and prompt.messages[0]["content"]:
            shown.append(client.render_generate(name, prompt.messages[0]["content"]))
        for text in filter(None, shown):
            require_same(name, text, prompt.texts)
            compared += 1
    return compared


def require_same(name: str, text: str, wanted: tuple[str, str]) -> None:
    """Raises PipelineError that shows where the texts part."""
    if text not in wanted:
        whole = max(wanted, key=lambda each: count_common(text, each))
        raise PipelineError(f"{name} in Ollama gets other prompts than training: {describe_difference(text, whole)}")


def unload(client: OllamaClient, name: str) -> None:
    """Free the memory that looking at prompts took."""
    try:
        client.unload(name)
    except OllamaError as error:
        print(f"[WARN] {name} stays loaded: {error}")


def print_undo(client: OllamaClient, commands: Sequence[str]) -> None:
    """How to take everything back."""
    if commands:
        where = "" if client.base_url == DEFAULT_URL else f", with OLLAMA_HOST set to {client.base_url}"
        print(f"To take it back{where}, type:")
        print("\n".join(f"    {command}" for command in commands))
