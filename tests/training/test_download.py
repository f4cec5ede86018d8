"""finetune.py --download against a hub on loopback, in a process of its own: huggingface_hub reads its settings once."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.network import SWITCHES
from tests.hub import COMMIT, NAME, HubServer

ROOT = Path(__file__).parents[2]
TOKEN = "hf_aVerySecretTokenOfTheTests"
# What the command line does, without the rest of the script.
DOWNLOAD = """
import sys
from pathlib import Path
from distill.config import load_config
from distill.errors import run
from distill.training.download import download_base
run(lambda: print("FOLDER", download_base(load_config(Path(sys.argv[1])))))
"""
FIND = """
import sys
from distill.base_model import find_base_model
print("FOLDER", find_base_model(*[each or None for each in sys.argv[1:]]))
"""
UNWANTED = ("pytorch_model.bin", "tiny-q4.gguf", "consolidated.safetensors")
WEIGHTS = 25_000_000  # more than two of the pieces in which the library writes to the disk


@pytest.fixture(scope="module")
def repository(tiny_phi3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as it lies on a hub: with a large file, and with what nobody here needs."""
    folder = Path(shutil.copytree(tiny_phi3, tmp_path_factory.mktemp("hub") / "tiny"))
    (folder / "extra.safetensors").write_bytes(random.Random(0).randbytes(WEIGHTS))
    for name in (*UNWANTED, "original/weights.pth", "original/params.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not needed")
    (folder / "LICENSE").write_text("licence", encoding="utf-8")
    return folder


@pytest.fixture
def hub(repository: Path) -> Iterator[HubServer]:
    with HubServer(repository) as server:
        yield server


def start(
    folder: Path, hub: HubServer, revision: str | None = None, name: str = NAME, **environment: str
) -> subprocess.Popen[str]:
    """The download as a process with a cache of its own."""
    section = {"base_model": name, "base_revision": revision}
    (folder / "config.yaml").write_text(json.dumps({"finetune": section}), encoding="utf-8")
    return spawn(folder, DOWNLOAD, str(folder / "config.yaml"), **{"HF_ENDPOINT": hub.base_url, **environment})


def spawn(folder: Path, program: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A Python program in the repository's root."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "HYBRIDRAG"))}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, env={**clean, "HF_HOME": str(folder / "hf home"), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it printed; a failure must be one line."""
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == code, printed
    assert "Traceback" not in printed and TOKEN not in printed
    if code:
        assert [line[:6] for line in printed.splitlines() if line and not line.startswith("[OK]")] == ["[FAIL]"], printed
    return printed


def read_folder(printed: str) -> Path:
    return Path(printed.split("FOLDER ")[1].strip())


def count_bytes(hub: HubServer) -> list[int]:
    """Where each request for weights began."""
    return [int((each["headers"].get("range") or "bytes=0-")[6:-1]) for each in hub.cdn.requests]


def find_partial(folder: Path) -> list[Path]:
    """What was fetched of files that are not whole."""
    return sorted((folder / "hf home" / "hub").glob("models--*/blobs/*.part"))


# -----------------------------------------------------------------------------
# What is fetched


def test_the_model_is_fetched_and_found_offline(tmp_path: Path, hub: HubServer, repository: Path) -> None:
    printed = finish(start(tmp_path, hub))
    folder = read_folder(printed)
    wanted = {path.name for path in repository.iterdir() if path.is_file()} - set(UNWANTED)
    assert {path.name for path in folder.iterdir()} == wanted
    assert all((folder / name).read_bytes() == (repository / name).read_bytes() for name in wanted)
    for revision in ("", COMMIT):
        assert read_folder(finish(spawn(tmp_path, FIND, NAME, revision, HF_HUB_OFFLINE="1"))) == folder


def test_the_script_downloads_and_stops(tmp_path: Path, hub: HubServer) -> None:
    """No training data is needed for it."""
    start(tmp_path, hub).kill()  # leaves the config
    command = "import runpy, sys; sys.argv = ['finetune.py', *sys.argv[1:]]; runpy.run_path('finetune.py', run_name='__main__')"
    arguments = ["--download", "--config", str(tmp_path / "config.yaml")]
    printed = finish(spawn(tmp_path, command, *arguments, HF_ENDPOINT=hub.base_url))
    assert f"base_revision: {COMMIT}" in printed and "agent-harnesses" not in str(hub.requests)


def test_nothing_else_is_asked_of_the_hub(tmp_path: Path, hub: HubServer) -> None:
    """Its library would send what runs here, and look for a list of the programs that call it."""
    finish(start(tmp_path, hub, HF_HUB_DISABLE_TELEMETRY="0"))
    assert all(NAME in each["path"] for each in hub.requests)
    assert not any(word in each["headers"]["user-agent"] for each in hub.requests for word in ("torch", "agent/"))


def test_the_commit_to_pin_and_the_way_to_an_offline_machine_are_printed(tmp_path: Path, hub: HubServer) -> None:
    printed = finish(start(tmp_path, hub))
    folder = read_folder(printed)
    assert f"base_revision: {COMMIT}\n" in printed and f'"{folder}"' in printed and "base_model: D:/models/tiny" in printed
    if sys.platform != "win32":
        copy = next(line for line in printed.splitlines() if "cp -rL" in line).split("example:  ")[1]
        target = tmp_path / "usb stick"
        subprocess.run([part.replace("/media/usb/tiny", str(target)) for part in shlex.split(copy)], check=True)
        assert read_folder(finish(spawn(tmp_path / "elsewhere", FIND, str(target)))) == target
        assert not any(path.is_symlink() for path in target.iterdir())


def test_a_pinned_commit_is_fetched_and_not_named_again(tmp_path: Path, hub: HubServer) -> None:
    printed = finish(start(tmp_path, hub, revision=COMMIT))
    assert read_folder(printed).name == COMMIT and "base_revision" not in printed


def test_what_is_there_is_not_fetched_again(tmp_path: Path, hub: HubServer) -> None:
    finish(start(tmp_path, hub))
    fetched = len(hub.cdn.requests)
    printed = finish(start(tmp_path, hub))
    assert fetched and len(hub.cdn.requests) == fetched and "Downloading" not in printed


def test_without_symbolic_links_nothing_is_stored_twice(tmp_path: Path, hub: HubServer) -> None:
    folder = read_folder(finish(start(tmp_path, hub, HF_HUB_DISABLE_SYMLINKS="1")))
    assert (folder / "extra.safetensors").stat().st_size == WEIGHTS and not (folder / "extra.safetensors").is_symlink()
    large = [path for path in (tmp_path / "hf home").rglob("*") if path.is_file() and path.stat().st_size == WEIGHTS]
    assert large == [folder / "extra.safetensors"]


# -----------------------------------------------------------------------------
# What interrupts it


def test_a_broken_connection_is_opened_again_where_it_broke(tmp_path: Path, repository: Path) -> None:
    with HubServer(repository, limit=lambda number: 12_000_000 if number < 2 else None) as hub:
        folder = read_folder(finish(start(tmp_path, hub)))
        assert (folder / "extra.safetensors").read_bytes() == (repository / "extra.safetensors").read_bytes()
        first, second, third = count_bytes(hub)
        assert first == 0 < second < third < WEIGHTS


def test_a_killed_download_goes_on_where_it_was(tmp_path: Path, repository: Path) -> None:
    def limit(number: int) -> int | None:
        """The first answer breaks off, the next comes too late."""
        return 21_000_000 if not number else time.sleep(30)

    with HubServer(repository, limit=limit) as hub:
        process = start(tmp_path, hub)
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size >= 10_000_000 for path in find_partial(tmp_path)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.communicate()
    here = find_partial(tmp_path)[0].stat().st_size
    with HubServer(repository) as hub:
        printed = finish(start(tmp_path, hub))
        assert count_bytes(hub) == [here] and "of it here" in printed
    assert (read_folder(printed) / "extra.safetensors").read_bytes() == (repository / "extra.safetensors").read_bytes()
    assert not find_partial(tmp_path)


def test_damaged_weights_are_deleted_and_fetched_anew(tmp_path: Path, hub: HubServer, repository: Path) -> None:
    folder = read_folder(finish(start(tmp_path, hub)))
    blob = (folder / "extra.safetensors").resolve()
    blob.rename(blob.with_name(f"{blob.name}.part")).write_bytes(bytes(WEIGHTS - 1))
    (folder / "extra.safetensors").unlink()
    assert "extra.safetensors arrived damaged and was deleted" in finish(start(tmp_path, hub), code=1)
    finish(start(tmp_path, hub))
    assert (folder / "extra.safetensors").read_bytes() == (repository / "extra.safetensors").read_bytes()


# -----------------------------------------------------------------------------
# What stops it


@pytest.mark.parametrize(("fault", "environment", "expected"), [
    ("gated", {}, f"{NAME} is gated: accept its terms at http"),
    ("missing", {}, f"has no {NAME}: correct finetune.base_model, or set HF_TOKEN"),
    ("empty", {}, f"has no {NAME}: correct finetune.base_model"),
    ("refused", {"HF_TOKEN": TOKEN}, f"refuses {NAME} (401): HF_TOKEN is not accepted"),
    ("refused", {}, f"refuses {NAME} (401): set HF_TOKEN"),
])
def test_a_refusal_of_the_hub_is_one_line(
    tmp_path: Path, hub: HubServer, fault: str, environment: dict[str, str], expected: str
) -> None:
    hub.fault = fault
    assert expected in finish(start(tmp_path, hub, **environment), code=1)


def test_an_unknown_revision_is_one_line(tmp_path: Path, hub: HubServer) -> None:
    printed = finish(start(tmp_path, hub, revision="v9"), code=1)
    assert f"finetune.base_revision v9 is no commit, branch or tag of {NAME}" in printed


def test_no_network_is_one_line(tmp_path: Path, hub: HubServer) -> None:
    printed = finish(start(tmp_path, hub, HF_ENDPOINT="http://127.0.0.1:9"), code=1)
    assert "http://127.0.0.1:9 cannot be reached" in printed and "HF_ENDPOINT" in printed


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", *SWITCHES])
def test_a_switch_that_forbids_the_network_is_obeyed(tmp_path: Path, hub: HubServer, switch: str) -> None:
    """HybridRAG3's switches allow loopback; another address is refused before it is looked up."""
    printed = finish(start(tmp_path, hub, HF_ENDPOINT="http://hub.example", **{switch: "1"}), code=1)
    assert f"{switch} is set" in printed and not hub.requests


def test_a_full_disk_is_told_before_the_first_byte(tmp_path: Path, hub: HubServer) -> None:
    described = hub.describe_model()
    for each in described["siblings"]:
        each["size"] *= 10**10
    hub.describe_model = lambda: described  # type: ignore[method-assign]
    printed = finish(start(tmp_path, hub), code=1)
    assert "GB free: make room, or set HF_HOME" in printed and not hub.cdn.requests


def test_a_quantised_model_is_refused_before_its_weights_are_fetched(tmp_path: Path, hub: HubServer) -> None:
    settings = {**json.loads(hub.files["config.json"]), "quantization_config": {"quant_method": "bitsandbytes"}}
    hub.files["config.json"] = json.dumps(settings).encode()
    assert f"{NAME} is quantised already" in finish(start(tmp_path, hub), code=1)
    assert not hub.cdn.requests


def test_a_model_without_safetensors_is_refused(tmp_path: Path, hub: HubServer) -> None:
    for name in [name for name in hub.files if name.endswith(".safetensors")]:
        del hub.files[name]
    assert f"{NAME} holds no *.safetensors" in finish(start(tmp_path, hub), code=1)


def test_what_is_no_hub_id_is_named(tmp_path: Path, hub: HubServer) -> None:
    printed = finish(start(tmp_path, hub, name="a/b/c"), code=1)
    assert "finetune.base_model a/b/c is neither a folder nor a hub id" in printed


def test_a_folder_needs_no_hub(tmp_path: Path, hub: HubServer, tiny_phi3: Path) -> None:
    printed = finish(start(tmp_path, hub, name=tiny_phi3.as_posix()))
    assert "nothing to download" in printed and read_folder(printed) == tiny_phi3 and not hub.requests


# -----------------------------------------------------------------------------
# The token


def test_the_token_goes_to_the_hub_and_not_to_where_the_weights_are(tmp_path: Path, hub: HubServer) -> None:
    finish(start(tmp_path, hub, HF_TOKEN=TOKEN))
    assert {each["headers"].get("authorization") for each in hub.requests} == {f"Bearer {TOKEN}"}
    assert hub.cdn.requests and not any("authorization" in each["headers"] for each in hub.cdn.requests)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize("token", [TOKEN + "\u00fc", TOKEN + " x", TOKEN + "\nx"])
def test_what_cannot_be_a_token_is_refused_unprinted(tmp_path: Path, hub: HubServer, token: str) -> None:
    assert "HF_TOKEN holds characters" in finish(start(tmp_path, hub, HF_TOKEN=token), code=1)
    assert not hub.requests
