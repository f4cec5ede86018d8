"""Before the first question: is teacher or judge there, does it know the model, may answers be learnt, what do they cost.

Asks GET {base_url}/models, and at OpenRouter GET {base_url}/key. No document text is sent.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai

from distill.config import Config, ServiceSection, TeacherSection
from distill.errors import PipelineError
from distill.network import host_of, require_allowed
from distill.teacher.audit import open_audit
from distill.teacher.keys import explain_refused, require_https
from distill.teacher.prices import Prices, describe_usd, find_prices, require_prices
from distill.teacher.requests import role_of
from distill.teacher.verdicts import Judge
from distill.teacher.wire import is_openrouter, make_client

LONGEST_WAIT_SECONDS = 30.0
MOST_PAGES = 20
# OpenRouter routes model:floor and the like without listing them.
ROUTING_SUFFIXES = (":nitro", ":floor", ":online", ":exacto")


@dataclass(frozen=True)
class Preflight:
    """What is known of teacher or judge before it is asked. None: nobody says.

    `trainable_text` is whether the licence allows training on the model's answers; `distillable_only` whether the provider
    is told to refuse with every request where it does not; `structured` whether the model takes JSON schemas.
    """

    host: str
    model: str
    listed: bool | None
    trainable_text: bool | None
    distillable_only: bool
    context_length: int | None
    prices: Prices | None
    lines: tuple[str, ...]
    structured: bool | None = None

    def to_manifest(self) -> dict[str, Any]:
        """Plain values for the manifest and the dataset card."""
        prices = self.prices
        return {
            "host": self.host, "model": self.model, "listed": self.listed, "trainable_text": self.trainable_text,
            "distillable_only": self.distillable_only, "context_length": self.context_length,
            "prices": {
                "prompt_usd": prices.prompt_usd, "answer_usd": prices.answer_usd, "request_usd": prices.request_usd,
                "source": prices.source,
            } if prices else None,
        }


def check_teacher(config: Config, key: str) -> Preflight:
    """Ask the provider about the model, and whether its answers may be learnt. Raises as `check_service`."""
    section = config.generate.teacher
    found = check_service(section, config.training_dir, key)
    licence = describe_licence(section, found.trainable_text, found.distillable_only)
    return replace(found, lines=(*found.lines, *licence, *describe_schema(config, found.structured)))


def check_service(section: ServiceSection, folder: Path, key: str) -> Preflight:
    """Ask the provider about the model, with the audit in `folder`.

    Raises PipelineError for a server that is not there, a wrong key, an unknown model. Without a key (a dry run may lack one)
    a provider that wants one is a warning.
    """
    require_allowed(section.base_url)
    require_https(section)
    models, account = asyncio.run(look_up(section, folder, key))
    lines = list(models.lines)
    entry = find_model(section, models.entries) if models.entries else {}
    if models.entries and entry is None:
        raise PipelineError(explain_unknown(section, [entry["id"] for entry in models.entries]))
    listed = None if not models.entries else entry.get("id") is not None
    prices = find_prices(section, entry.get("pricing"))
    require_prices(section, prices)
    trainable = entry.get("is_trainable_text")
    distillable_only = is_openrouter(section.base_url) and bool(section.openrouter.enforce_distillable_text)
    lines += describe_model(section, entry, prices) if models.entries else []
    lines += describe_account(section, account)
    return Preflight(
        host_of(section.base_url), section.model, listed, trainable if isinstance(trainable, bool) else None, distillable_only,
        entry.get("context_length"), prices, tuple(lines), takes_schema(entry),
    )


# -----------------------------------------------------------------------------
# Looking up


@dataclass(frozen=True)
class Listing:
    """The entries of the provider's list of models, or lines that say why there are none."""

    entries: tuple[dict[str, Any], ...] = ()
    lines: tuple[str, ...] = ()


async def look_up(section: ServiceSection, folder: Path, key: str) -> tuple[Listing, Any]:
    """The list of models, and OpenRouter's account of the key."""
    with open_audit(folder, section.model) as audit:
        client = make_client(section, key, audit)
        try:
            listing = await fetch_models(section, client, key)
            account = await fetch(section, client, key, "/key") if key and is_openrouter(section.base_url) else None
        finally:
            await client.close()
    return listing, account


async def fetch_models(section: ServiceSection, client: openai.AsyncOpenAI, key: str) -> Listing:
    """Every page of the list."""
    entries: list[dict[str, Any]] = []
    path: str | None = "/models"
    for _ in range(MOST_PAGES):
        answer = await fetch(section, client, key, path)
        if isinstance(answer, str):
            return Listing(tuple(entries), (f"[WARN] {host_of(section.base_url)} does not list its models ({answer})",))
        entries += [entry for entry in answer.get("data") or () if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
        following = (answer.get("links") or {}).get("next")
        if not following:
            break
        path = f"/models?{urlsplit(following).query}"
    if not entries:
        return Listing((), (f"[WARN] {host_of(section.base_url)} lists no models: it may not have {section.model}",))
    return Listing(tuple(entries))


async def fetch(section: ServiceSection, client: openai.AsyncOpenAI, key: str, path: str) -> dict[str, Any] | str:
    """The JSON object at a path, or why there is none. Raises PipelineError for a wrong key or no server."""
    clean = Judge(section, key, None).clean
    try:
        async with asyncio.timeout(min(section.timeout_seconds, LONGEST_WAIT_SECONDS)):
            answer = await client.get(path, cast_to=object)
    except openai.APIStatusError as error:
        if error.status_code == 401 and key:
            raise explain_refused(section) from None
        return f"status {error.status_code}"
    except (TimeoutError, openai.APIConnectionError) as error:
        reason = clean(error.__cause__ or error) or "no answer"
        raise PipelineError(
            f"the {role_of(section)} at {section.base_url} cannot be reached ({reason}): is it running, is the address right?"
        ) from None
    except (openai.APIError, ValueError, RecursionError):
        return "not JSON"
    return answer if isinstance(answer, dict) else "not JSON"


# -----------------------------------------------------------------------------
# What it means


def find_model(section: ServiceSection, entries: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The list's entry for the configured model; {} for llama.cpp, which serves its one model under every name."""
    names = [section.model, f"{section.model}:latest"]
    names += [section.model.removesuffix(suffix) for suffix in ROUTING_SUFFIXES if section.model.endswith(suffix)]
    for name in names:
        for entry in entries:
            if name in (entry["id"], entry.get("canonical_slug")):
                return entry
    return {} if all(entry.get("owned_by") == "llamacpp" for entry in entries) else None


def explain_unknown(section: ServiceSection, names: Sequence[str]) -> str:
    """An error with the names that come near."""
    tail = section.model.rsplit("/", 1)[-1].lower()
    alike = [name for name in names if tail and tail in name.lower()]
    near = list(dict.fromkeys([*alike, *difflib.get_close_matches(section.model, names, cutoff=0.5)]))[:3]
    there = f"near names: {', '.join(near)}" if near else f"it has {', '.join(names[:3])}" + (", ..." if len(names) > 3 else "")
    return f"{host_of(section.base_url)} has no model {section.model} ({there}): mend {section.place}.model"


def describe_model(section: ServiceSection, entry: dict[str, Any], prices: Prices | None) -> list[str]:
    """The model and its price."""
    host = host_of(section.base_url)
    if not entry:
        return [f"[WARN] {host} serves one model under every name: make sure that it is {section.model}"]
    price = prices.describe() if prices else "price not known"
    return [f"[OK] {host} has {section.model}: {price}"]


def describe_account(section: ServiceSection, account: Any) -> list[str]:
    """What OpenRouter says of the key. Raises PipelineError for a key without money."""
    if account is None:
        return []
    data = account.get("data") if isinstance(account, dict) else None
    if not isinstance(data, dict):
        return [f"[WARN] {host_of(section.base_url)} does not say whether the key is good"]
    left = data.get("limit_remaining")
    if not isinstance(left, (int, float)):
        return ["[OK] the key is accepted"]
    if left <= 0:
        raise PipelineError(f"nothing is left of the key's limit at {host_of(section.base_url)}: raise it, or take another key")
    return [f"[OK] the key is accepted, {describe_usd(left)} of its limit are left"]


def describe_licence(section: TeacherSection, trainable: Any, distillable_only: bool) -> list[str]:
    """Whether the answers may be learnt."""
    host = host_of(section.base_url)
    if trainable is False:
        return [f"[WARN] {host} says that the answers of {section.model} may not be used for training: take another model"]
    if trainable is True:
        return [f"[OK] {host} says that the answers of {section.model} may be used for training"]
    if distillable_only:
        return [f"[OK] {host} is told to answer only if the licence allows training (openrouter.enforce_distillable_text)"]
    return [f"[WARN] whether the licence of {section.model} allows training on its answers is not known: read it"]


def takes_schema(entry: dict[str, Any]) -> bool | None:
    """Whether the provider's list says that the model gives structured replies; None where it says nothing of it."""
    supported = entry.get("supported_parameters")
    return None if not isinstance(supported, list) else not {"structured_outputs", "response_format"}.isdisjoint(supported)


def describe_schema(config: Config, structured: bool | None) -> list[str]:
    """A warning where the config needs structured replies and the provider's list has none for the model."""
    section, settings = config.generate.teacher, config.generate
    wanted = settings.documents.sets or section.two_pass or section.reasoning or settings.checks.judge
    if not wanted or structured is not False:
        return []
    return [
        f"[WARN] {section.model} gives no structured replies, which documents.sets, two_pass, reasoning and judge ask for: "
        f"turn those off or take another model"
    ]
