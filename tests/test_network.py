from __future__ import annotations

import pytest

from distill.errors import PipelineError
from distill.network import SWITCHES, is_loopback, require_allowed


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://localhost", "http://LOCALHOST:8080", "http://[::1]:1", "http://127.9.9.9"])
def test_this_machine(url: str) -> None:
    assert is_loopback(url)


@pytest.mark.parametrize("url", ["https://openrouter.ai/api/v1", "http://10.0.0.1", "http://127.0.0.1.example.com", "http://localhost.example.com"])
def test_another_machine(url: str) -> None:
    assert not is_loopback(url)


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", ["1", "true", "YES", "on", "anything"])
def test_a_switch_forbids_another_machine_only(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    require_allowed("http://127.0.0.1:11434")
    with pytest.raises(PipelineError, match=rf"{name} is set, so openrouter\.ai is not called"):
        require_allowed("https://openrouter.ai/api/v1")


@pytest.mark.parametrize("value", ["", "0", "false", "No", "off"])
def test_a_switch_that_is_off_forbids_nothing(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for name in SWITCHES:
        monkeypatch.setenv(name, value)
    require_allowed("https://openrouter.ai/api/v1")
