"""
`evaluate.py --switch`: put a model's name into HybridRAG3's config.yaml, and tell what there would still win over it.

HybridRAG3 asks the model of modes.offline.ollama.model. Only that value's characters are replaced: comments, order, line ends
and a byte order mark stay as they are. Nothing of HybridRAG3 is started or imported.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from distill.errors import PipelineError
from distill.files import flush_to_disk, read_text, replace_file

KEY = ("modes", "offline", "ollama", "model")
DOTTED = ".".join(KEY)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LOOPBACK = ("localhost", "127.0.0.1", "::1")  # what HybridRAG3's network gate lets through offline
OTHER_BACKENDS = ("vllm", "transformers")
# Names that HybridRAG3 replaces by a stock model's, always or where the model is not in Ollama.
FOLDED = re.compile(r"phi4-mini.*|phi4(?::.*)?|(?:mistral|gemma3|mistral-nemo)(?::.*)?")


def switch_model(path: Path, name: str) -> list[str]:
    """
    Set modes.offline.ollama.model to a model's name in Ollama; returns lines for the console, [WARN] ones last.

    `path` is HybridRAG3's config.yaml, or a folder that holds it or config/config.yaml. The old file stays beside it under a
    dated name; where the name stands there already nothing is written. Raises PipelineError, with nothing changed, for a file
    that is no such config.
    """
    path = find_config(path)
    text = read_text(path)  # with its line ends, without a byte order mark
    mark = BYTE_ORDER_MARK if path.read_bytes().startswith(BYTE_ORDER_MARK) else b""
    values, line, changed = change_model(path, text, name)
    warnings = list(list_warnings(path, values, name))  # all is read before anything is written
    before = find_value(values, KEY)
    if before == name:
        lines = [f"[OK] {path}:{line} {DOTTED} is {name} already: nothing was changed"]
    else:
        backup = write_changed(path, mark + changed.encode("utf-8"))
        lines = [
            f"[OK] {path}:{line} {DOTTED}: {'nothing' if before is None else before} -> {name}",
            f"[OK] the file as it was: {backup}",
        ]
    lines.append('[OK] now start HybridRAG3 anew; the "Auto" of its GUI picks a model by itself, so choose this one there')
    return [*lines, *(f"[WARN] {warning}" for warning in warnings)]


def find_config(path: Path) -> Path:
    """HybridRAG3's config.yaml; behind a link the file itself. Raises PipelineError when it is not there."""
    for found in (path, path / "config" / "config.yaml", path / "config.yaml"):
        if found.is_file():
            return found.resolve()
    raise PipelineError(f"{path} is missing: --hybridrag-config takes HybridRAG3's config/config.yaml, or its folder")


# -----------------------------------------------------------------------------
# The text


def change_model(path: Path, text: str, name: str) -> tuple[dict[str, Any], int, str]:
    """The file's values as they are, the line of the model's name, and the text with the new one. Raises PipelineError."""
    try:
        root, values = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        raise PipelineError(f"{path}:{error.problem_mark.line + 1} is not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none, such as 2026-02-30
        raise PipelineError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    node = find_node(root)
    if node is None:
        raise PipelineError(
            f"{path} has no {DOTTED}: is it HybridRAG3's config/config.yaml? If so, write  modes:  offline:  ollama:  "
            f"model: {name}  there, each key on its own line below the one before it and indented"
        )
    line = node.start_mark.line + 1
    changed = replace_node(text, node, name)
    # The proof that nothing else changes: an alias or a text of several lines, for one, may reach further than it looks.
    if changed is None or load_or_none(changed) != with_value(values, KEY, name):
        raise PipelineError(f"{path}:{line} {DOTTED} stands in a form that cannot be changed alone: write a plain name there")
    return values, line, changed


def find_node(node: yaml.Node | None) -> yaml.ScalarNode | None:
    """The value of KEY in a YAML document; of a key that stands twice the last, which counts."""
    for key in KEY:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for name, value in reversed(pairs) if name.value == key), None)
    return node if isinstance(node, yaml.ScalarNode) else None


def replace_node(text: str, node: yaml.ScalarNode, name: str) -> str | None:
    """The text with the name in a scalar's place, in quotes where it had some or needs them; None for a block of lines."""
    start, end = node.start_mark.index, node.end_mark.index
    if node.style in ("|", ">"):
        return None
    if start == end:
        return f"{text[:start]} {name}{text[end:]}"
    lead = re.match(r"(?:[&!]\S+\s+)*", text[start:end])[0]  # an anchor or a tag
    quote = node.style or ("" if yaml.safe_load(name) == name else '"')
    return f"{text[: start + len(lead)]}{quote}{name}{quote}{text[end:]}"


def load_or_none(text: str) -> Any:
    """The values of a YAML text; None where it is none."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def find_value(values: Any, keys: tuple[str, ...]) -> Any:
    """A value deep in nested mappings; None where it is not there."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def with_value(values: Mapping[str, Any], keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Nested mappings with one value replaced."""
    first, *rest = keys
    return {**values, first: with_value(values[first], tuple(rest), value) if rest else value}


# -----------------------------------------------------------------------------
# The files


def write_changed(path: Path, data: bytes) -> Path:
    """Replace a file, whole or not at all, with the rights it has; returns the copy of the old one, which replaces none."""
    stamp, number = time.strftime("%Y%m%d-%H%M%S"), 1
    while (backup := path.with_name(f"{path.name}.{stamp}{f'-{number}' if number > 1 else ''}.bak")).exists():
        number += 1
    temporary = path.with_name(f".{path.name}.new")
    try:
        for target, content in ((backup, path.read_bytes()), (temporary, data)):
            with open(target, "wb") as file:
                file.write(content)
                flush_to_disk(file)
            shutil.copymode(path, target)
        replace_file(temporary, path)
    except OSError as error:
        raise PipelineError(f"{path} cannot be changed ({error.strerror}): it needs your right to write there") from None
    finally:
        temporary.unlink(missing_ok=True)
    return backup


# -----------------------------------------------------------------------------
# What would win over it


def list_warnings(path: Path, values: Mapping[str, Any], name: str) -> Iterator[str]:
    """Why HybridRAG3 might ask another model all the same."""
    if FOLDED.fullmatch(name):
        yield f"{name}: HybridRAG3 takes names of this form for a stock model: give yours another one, as export.name does"
    if str(values.get("mode", "offline")).strip().lower() == "online":
        yield f"{path.name} says mode: online: HybridRAG3 asks its online service, and this model only in mode offline"
    url = find_value(values, ("modes", "offline", "ollama", "base_url"))
    if url and not is_loopback(str(url)):
        yield f"modes.offline.ollama.base_url is {url}: offline, HybridRAG3's network gate lets only this machine through"
    for backend in OTHER_BACKENDS:
        if find_value(values, (backend, "enabled")) is True:
            yield f"{path.name} says {backend}: enabled: true: it may answer in place of Ollama"
    yield from list_overrides(path, name)


def is_loopback(url: str) -> bool:
    """Whether a base_url names this machine, also as HybridRAG3 lets it be typed, without http://."""
    try:
        return urlsplit(url if "//" in url else f"//{url}").hostname in LOOPBACK
    except ValueError:
        return False


def list_overrides(path: Path, name: str) -> Iterator[str]:
    """An active profile in user_modes.yaml that sets the model; user_overrides.yaml, which older versions read, likewise."""
    profiles, overrides = (load_beside(path.with_name(each)) for each in ("user_modes.yaml", "user_overrides.yaml"))
    active = str(find_value(profiles, ("active_profile",)) or "").strip()
    profile = find_value(profiles, ("profiles", active)) if active else None
    model = find_profile_model(profile)
    if model and model != name:
        yield (
            f"the active profile {active} in user_modes.yaml sets the model {model}, and wins: change it there, or choose no "
            "profile in HybridRAG3's GUI"
        )
    for keys in (KEY, KEY[2:]):
        model = find_value(overrides, keys)
        if model and model != name:
            yield f"user_overrides.yaml sets {'.'.join(keys)} to {model}: older versions of HybridRAG3 prefer that"


def find_profile_model(profile: Any) -> Any:
    """The model that a profile sets; one whose box is not checked counts as not set. Older files have overrides, not values."""
    values = find_value(profile, ("values",))
    model = find_value(values if isinstance(values, Mapping) else find_value(profile, ("overrides",)), KEY)
    checked = profile.get("checked", True) if isinstance(profile, Mapping) else False
    for key in KEY:
        checked = checked.get(key, False) if isinstance(checked, Mapping) else checked
    return model if checked else None


def load_beside(path: Path) -> Any:
    """The values of a YAML file; None where there is none to read: HybridRAG3 does without it, too."""
    try:
        return yaml.safe_load(read_text(path)) if path.is_file() else None
    except (PipelineError, yaml.YAMLError, ValueError, RecursionError):
        return None
