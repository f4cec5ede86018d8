"""A finished pipeline, made once; each test gets a copy that it may change."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from distill.bundle.pack import make_bundle
from distill.config import Config, load_config
from tests.bundle.finished import make_finished


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with config.yaml and work/; read it, do not write into it."""
    folder = tmp_path_factory.mktemp("finished") / "world"
    make_finished(folder)
    return folder


@pytest.fixture
def config(finished: Path, tmp_path: Path) -> Config:
    """The config of a copy."""
    shutil.copytree(finished, tmp_path / "world")
    return load_config(tmp_path / "world" / "config.yaml")


@pytest.fixture
def unpacked(config: Config, tmp_path: Path) -> Path:
    """The folder of an unpacked bundle of the tuned models."""
    make_bundle(config, target=tmp_path / "made" / "student.zip", part_bytes=None)
    with zipfile.ZipFile(tmp_path / "made" / "student.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    return tmp_path / "unpacked" / "student"
