"""The models that are asked: the tuned one, its control, and the one in use today."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distill.config import Config
from distill.errors import PipelineError
from distill.files import sha256_file
from distill.ollama import OllamaClient, OllamaError, with_tag
from distill.records import ModelSide

Side = ModelSide
PAIR: tuple[Side, Side] = ("base", "tuned")  # what a verdict rests on
SIDES: tuple[Side, Side, Side] = ("base", "tuned", "stock")  # in the order in which they are asked


@dataclass(frozen=True)
class Model:
    """One model. `file` is relative to work_dir, and has no folder outside it.

    `sha256` is that of the GGUF file; of a stock model in Ollama, Ollama's own digest, which covers its TEMPLATE too, or "" if
    it tells none. Such a model has no `path` that we know of, and no stock model has a `modelfile` of ours. `runtime` is the
    program that runs it, with its version: another one may give other answers.
    """

    side: Side
    name: str
    path: Path | None
    file: str
    sha256: str
    bytes: int
    modelfile: Path | None
    runtime: str = ""


def find_models(config: Config, manifest: Mapping[str, Any]) -> dict[Side, Model]:
    """
    What gguf/manifest.json holds, and evaluate.stock_model, in the order of SIDES. Without export.export_base there is no base.

    Asks Ollama for its version, and for the stock model's digest. Raises PipelineError when Ollama does not answer, or that
    model is missing, or is one of the two.
    """
    found, models = manifest["details"]["models"], {}
    files = {output["path"]: output for output in manifest["outputs"]}
    for side in PAIR:
        if found.get(side):
            models[side] = to_model(config, side, found[side], files[found[side]["file"]])
    if config.evaluate.stock_model:
        models["stock"] = find_stock(config, config.evaluate.stock_model)
        require_another(models)
    runtime = describe_runtime(config)
    return {side: replace(model, runtime=runtime) for side, model in models.items()}


def describe_runtime(config: Config) -> str:
    """The engine and its version, such as "ollama 0.30.1"; the engine alone where it does not tell."""
    if config.evaluate.engine == "embedded":
        return f"xllamacpp {find_version('xllamacpp')}".strip()
    client = OllamaClient(config.evaluate.ollama_url, config.evaluate.timeout_seconds)
    try:
        return f"ollama {client.version()}".strip()
    except OllamaError as error:
        if error.status == 404:  # something that speaks Ollama's language
            return "ollama"
        raise


def find_version(package: str) -> str:
    """An installed package's version, "" without it: loading a model says what to install."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def to_model(config: Config, side: Side, entry: Mapping[str, Any], output: Mapping[str, Any]) -> Model:
    """One entry of gguf/manifest.json."""
    return Model(
        side, entry["ollama_name"], config.work_dir / entry["file"], entry["file"], output["sha256"], output["bytes"],
        config.work_dir / entry["modelfile"],
    )


def find_stock(config: Config, name: str) -> Model:
    """The model in use today. Raises PipelineError when Ollama does not have it, or the GGUF is not there."""
    if config.evaluate.engine == "embedded":
        return find_stock_file(config, name)
    client = OllamaClient(config.evaluate.ollama_url, config.evaluate.timeout_seconds)
    held = client.find_model(name)
    if not held:
        raise PipelineError(
            f"Ollama at {client.base_url} has no model {name}: run  ollama pull {name}  or set evaluate.stock_model: null"
        )
    return Model("stock", name, None, "", held.get("digest") or "", held.get("size") or 0, None)


def find_stock_file(config: Config, name: str) -> Model:
    """A GGUF that is only read, named from work_dir or in full."""
    path = config.work_dir / Path(name).expanduser()
    if not path.is_file():
        raise PipelineError(f"{path} is missing: evaluate.stock_model with  engine: embedded  is a GGUF file, or null")
    return Model("stock", path.stem, path, path.name, sha256_file(path), path.stat().st_size, None)


def require_another(models: Mapping[Side, Model]) -> None:
    """Raises PipelineError when the stock model is one of the pair."""
    stock = models["stock"]
    for side in PAIR:
        model = models.get(side)
        if model and (model.sha256 == stock.sha256 or with_tag(model.name) == with_tag(stock.name)):
            raise PipelineError(f"evaluate.stock_model is {stock.name}, which is the {side} model: name another one, or null")

