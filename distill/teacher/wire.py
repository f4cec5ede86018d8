"""What goes on the wire: the HTTP client of the openai package, and the body of a request."""

from __future__ import annotations

from typing import Any

import openai

from distill.config import ServiceSection
from distill.network import host_of, is_loopback
from distill.teacher.audit import Audit
from distill.teacher.prices import MILLION, Prices
from distill.teacher.requests import Request


def make_client(section: ServiceSection, key: str, audit: Audit) -> openai.AsyncOpenAI:
    """No retries, no redirects (they could leave this machine), no proxy for this machine, no OPENAI_* identity headers."""
    return openai.AsyncOpenAI(
        api_key=key or "none", base_url=section.base_url, max_retries=0, timeout=section.timeout_seconds,
        default_headers={"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()},  # type: ignore[dict-item]
        http_client=openai.DefaultAsyncHttpxClient(
            trust_env=not is_loopback(section.base_url), follow_redirects=False, timeout=section.timeout_seconds,
            event_hooks={"request": [audit.record]},
        ),
    )


def make_body(section: ServiceSection, request: Request, prices: Prices | None) -> dict[str, Any]:
    """The body of the request."""
    body: dict[str, Any] = {
        "model": section.model, "messages": request.messages, "temperature": section.temperature,
        "max_tokens": request.max_tokens,
    }
    if request.schema:
        schema = {"name": request.purpose, "strict": True, "schema": request.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if is_openrouter(section.base_url):
        body["provider"] = make_routing(section, prices, bool(request.schema))
    return body


def is_openrouter(url: str) -> bool:
    """Whether a URL is OpenRouter's, which takes routing preferences with each request."""
    host = host_of(url)
    return host == "openrouter.ai" or host.endswith(".openrouter.ai")


def make_routing(section: ServiceSection, prices: Prices | None, schema: bool) -> dict[str, Any]:
    """OpenRouter's `provider`: the section's `openrouter` without its nulls (openrouter.ai/docs/features/provider-routing).

    Its price list names the cheapest provider. With a budget, max_price (US dollars per million tokens) keeps the others out,
    since the budget is counted with the list's prices. A schema is for providers alone that heed it.
    """
    routing = section.openrouter.model_dump(exclude_none=True)
    if schema:
        routing["require_parameters"] = True
    if section.budget_usd is not None and prices:
        routing["max_price"] = {"prompt": prices.prompt_usd * MILLION, "completion": prices.answer_usd * MILLION}
    return routing
