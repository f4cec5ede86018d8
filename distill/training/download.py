"""finetune.py --download: the base model from the Hugging Face hub, once. Everything else in this project runs offline.

The files go into the hub library's own cache, where base_model.py finds them. The library throws a half-fetched file away
when it stops; weights are therefore fetched here, go on where they were cut off, and are checked against their sha256.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NoReturn

from distill.base_model import find_base_model
from distill.config import Config
from distill.errors import PipelineError
from distill.files import hold_lock, read_json, replace_file, sha256_file
from distill.network import FALSE_VALUES, require_allowed
from distill.progress import Progress, show_progress

# 16-bit weights, tokenizer, settings, licence. No pickles, no GGUF; not the weights again under another name (Mistral's and
# Meta's own formats); nothing from subfolders.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model", "LICENSE*", "NOTICE*")
UNWANTED = ("*/*", "consolidated*")
SPARE_BYTES = 1_000_000_000  # what the disk must keep besides
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class HubFile:
    """A file of the repository: its bytes, and the sha256 that the hub knows of large files ("" for small ones)."""

    name: str
    bytes: int
    sha256: str


def download_base(config: Config) -> Path:
    """
    Fetch finetune.base_model at finetune.base_revision into the hub's cache; returns its folder.

    Goes on where an earlier call was stopped, and prints the commit to pin and how to copy the folder to an offline machine.
    Must run before anything imports huggingface_hub with HF_HUB_OFFLINE set. Raises PipelineError, in one line, for all that
    the network, the hub, the token or the disk may refuse.
    """
    name, revision = config.finetune.base_model, config.finetune.base_revision
    if os.path.isabs(name):
        base = find_base_model(name)
        print(f"[OK] finetune.base_model is the folder {base}: nothing to download")
        return base
    require_online()
    with explain_failures(name, revision):
        commit, files = list_files(name, revision)
        require_16_bits(name, commit)
        store = find_store(name)
        lock = hold_lock(store / "download")
        fetch_weights(name, commit, store, [file for file in files if file.sha256])
        take_snapshot(name, revision, files)
        lock.release()
    base = find_base_model(name, revision)
    print(describe_copy(base, name, revision, sum(file.bytes for file in files)))
    return base


# -----------------------------------------------------------------------------
# Before anything is asked


def require_online() -> None:
    """Raises PipelineError where a switch forbids the network, or the token cannot be one (libraries would print it)."""
    for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(switch, "").strip().lower() not in FALSE_VALUES:
            raise PipelineError(f"{switch} is set, so nothing is downloaded: unset it, or copy the model from another machine")
    # Read when the library is imported: it would ask the hub for a list of programs, to name the one that calls it, and would
    # warn where there are no symbolic links (Windows), which costs no room here.
    os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_SYMLINKS_WARNING="1")
    require_allowed(find_endpoint())
    token = os.environ.get("HF_TOKEN", "").strip()
    if not all("!" <= character <= "~" for character in token):
        raise PipelineError("HF_TOKEN holds characters that no token has: copy it again from huggingface.co/settings/tokens")


def find_endpoint() -> str:
    """The hub's address: HF_ENDPOINT, or Hugging Face's own."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def list_files(name: str, revision: str | None) -> tuple[str, list[HubFile]]:
    """The commit behind a revision, and the files to fetch. Raises PipelineError where there are no safetensors."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(name, revision=revision, files_metadata=True)
    files = [
        HubFile(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else "")
        for each in info.siblings or () if is_wanted(each.rfilename)
    ]
    if not any(file.name.endswith(".safetensors") for file in files):
        raise PipelineError(f"{name} holds no *.safetensors: use the 16-bit model, such as unsloth/Phi-4-mini-instruct")
    return info.sha, files


def is_wanted(name: str) -> bool:
    """Whether training or export reads a file of this name."""
    return any(fnmatch(name, each) for each in WANTED) and not any(fnmatch(name, each) for each in UNWANTED)


def require_16_bits(name: str, commit: str) -> None:
    """Raises PipelineError for a quantised model before gigabytes of it are fetched."""
    from huggingface_hub import hf_hub_download

    if read_json(Path(hf_hub_download(name, "config.json", revision=commit))).get("quantization_config"):
        raise PipelineError(f"{name} is quantised already: use the 16-bit model, such as unsloth/Phi-4-mini-instruct")


# -----------------------------------------------------------------------------
# Fetching


def find_store(name: str) -> Path:
    """The repository's folder in the hub's cache; it holds blobs/, snapshots/ and refs/."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")


def fetch_weights(name: str, commit: str, store: Path, files: Sequence[HubFile]) -> None:
    """Fetch the large files that are not there. Raises PipelineError before the first byte if the disk cannot hold them."""
    missing = [file for file in files if not has_file(store, commit, file)]
    done = sum(find_partial(store, file).stat().st_size for file in missing if find_partial(store, file).exists())
    total = sum(file.bytes for file in missing)
    require_space(store, total - done)
    if not missing:
        return
    here = f", {done / 1e9:.1f} GB of it here" if done else ""
    print(f"[OK] Downloading {name} at {commit[:12]}: {total / 1e9:.1f} GB{here}")
    with show_progress(total // MEGABYTE, "downloading", "MB", done=done // MEGABYTE) as progress:
        for file in missing:
            fetch_file(name, commit, store, file, progress)


def has_file(store: Path, commit: str, file: HubFile) -> bool:
    """Whether the cache holds a file: in this snapshot, or under its hash from another one."""
    return (store / "snapshots" / commit / file.name).exists() or (store / "blobs" / file.sha256).exists()


def find_partial(store: Path, file: HubFile) -> Path:
    """Where a file grows until it is whole; its name says what it must become."""
    return store / "blobs" / f"{file.sha256}.part"


def require_space(store: Path, needed: int) -> None:
    """Raises PipelineError when the disk under the cache has no room for `needed` bytes and something to spare."""
    place = next(folder for folder in (store, *store.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed + SPARE_BYTES:
        raise PipelineError(
            f"the download needs {(needed + SPARE_BYTES) / 1e9:.1f} GB, but {store.parent} has {free / 1e9:.1f} GB free: "
            "make room, or set HF_HOME to a folder on another disk"
        )


def fetch_file(name: str, commit: str, store: Path, file: HubFile, progress: Progress) -> None:
    """Fetch one large file, from where an earlier call left off, check it, and put it where the library looks for it."""
    from huggingface_hub.file_download import are_symlinks_supported

    partial = find_partial(store, file)
    partial.parent.mkdir(parents=True, exist_ok=True)
    grow_file(name, commit, file, partial, progress)
    if sha256_file(partial) != file.sha256:
        partial.unlink()
        raise PipelineError(f"{file.name} arrived damaged and was deleted: run the same command again")
    # Without symbolic links (Windows) the library keeps files in the snapshot itself, and would copy a blob to it.
    linked = are_symlinks_supported(store.parent)
    target = store / "blobs" / file.sha256 if linked else store / "snapshots" / commit / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(partial, target)


def grow_file(name: str, commit: str, file: HubFile, partial: Path, progress: Progress) -> None:
    """Append what is missing; a connection that breaks is opened again as long as something arrives in between."""
    import httpx
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a Range counts bytes as they are stored
    while True:
        with open(partial, "ab") as sink:
            if sink.tell() > file.bytes:
                sink.truncate(0)  # not of this file, whatever its name says
            before = sink.seek(0, os.SEEK_END)
            try:
                return http_get(
                    hf_hub_url(name, file.name, revision=commit), sink, resume_size=before, headers=headers,
                    expected_size=file.bytes, tqdm_class=make_meter(progress),
                )
            except httpx.TransportError:
                sink.flush()
                if partial.stat().st_size <= before:
                    raise


def make_meter(progress: Progress) -> Any:
    """A class in the place of the library's progress bar that counts whole megabytes on ours."""

    class Meter:
        def __init__(self, *_: Any, **__: Any) -> None:
            self._bytes = 0

        def __enter__(self) -> Meter:
            return self

        def __exit__(self, *_: object) -> None:
            return

        def update(self, count: float | None = 1) -> None:
            self._bytes += int(count or 0)
            progress.advance(self._bytes // MEGABYTE)
            self._bytes %= MEGABYTE

    return Meter


def take_snapshot(name: str, revision: str | None, files: Sequence[HubFile]) -> None:
    """Let the library fetch the small files and enter everything into its cache, with the branch's name where one is used."""
    from huggingface_hub import snapshot_download

    snapshot_download(name, revision=revision, allow_patterns=[file.name for file in files])


# -----------------------------------------------------------------------------
# What the user reads


def describe_copy(base: Path, name: str, revision: str | None, total: int) -> str:
    """The commit to pin, and the commands that carry the folder to a machine without a network."""
    folder = name.split("/")[-1]
    # The cache holds links; what is copied must be the files behind them.
    copy = f'robocopy "{base}" "E:\\{folder}"' if sys.platform == "win32" else f'cp -rL "{base}" "/media/usb/{folder}"'
    lines = [f"[OK] {name} is on this machine: commit {base.name}, {total / 1e9:.1f} GB"]
    if revision != base.name:
        lines.append(f"     To keep to this commit, write into config.yaml:  base_revision: {base.name}")
    lines += [
        f"     For an offline machine, copy the folder, for example:  {copy}",
        f"     and set finetune.base_model there to the copy, such as  base_model: D:/models/{folder}",
    ]
    return "\n".join(lines)


@contextmanager
def explain_failures(name: str, revision: str | None) -> Iterator[None]:
    """Turn what the network and the hub refuse into one line. A full disk stays what it is."""
    import httpx
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except (httpx.HTTPError, HFValidationError, OSError) as error:
        if getattr(error, "errno", None) is not None and not isinstance(error, ConnectionError):
            raise
        refuse(error, name, revision)


def refuse(error: Exception, name: str, revision: str | None) -> NoReturn:
    """Raises PipelineError for a failure of the hub's library. Its own messages run over several lines."""
    from huggingface_hub import errors

    hub = find_endpoint()
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(cause, errors.HFValidationError):
        text = f"finetune.base_model {name} is neither a folder nor a hub id such as unsloth/Phi-4-mini-instruct"
    elif isinstance(cause, errors.GatedRepoError):
        text = f"{name} is gated: accept its terms at {hub}/{name}, then set HF_TOKEN to a token of that account"
    elif isinstance(cause, errors.RevisionNotFoundError):
        text = f"finetune.base_revision {revision} is no commit, branch or tag of {name}"
    elif isinstance(cause, errors.RemoteEntryNotFoundError):
        text = f"{name} has no config.json: it is no model for transformers"
    elif isinstance(cause, errors.RepositoryNotFoundError) or status == 404:
        text = f"{hub} has no {name}: correct finetune.base_model, or set HF_TOKEN if the model is private"
    elif status in (401, 403):
        advice = "HF_TOKEN is not accepted" if os.environ.get("HF_TOKEN") else "set HF_TOKEN"
        text = f"{hub} refuses {name} ({status}): {advice}"
    elif status is not None:
        text = f"{hub} answers {status}: run the same command later, it goes on where it was"
    elif "CERTIFICATE" in str(cause):
        text = f"the certificate of {hub} is not trusted: set SSL_CERT_FILE to your organisation's certificates"
    else:
        text = (
            f"{hub} cannot be reached, or broke off ({type(cause).__name__}): check the network and HF_ENDPOINT, then run the "
            "same command again, it goes on where it was"
        )
    raise PipelineError(text) from None
