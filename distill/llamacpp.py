"""
llama.cpp inside this process: the one place that knows xllamacpp.

xllamacpp is llama.cpp's own HTTP server as a Python module. It is asked over the loopback interface, under a random key that
only this process knows, because its /tokenize and /apply-template have no other door.
"""

from __future__ import annotations

import gc
import json
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import PipelineError

# An empty handler: whatever proxy the environment names, 127.0.0.1 is asked directly.
LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Completion:
    """A generated text. `finish_reason` is "stop" (end token or stop text) or "length"; times are for reading and writing."""

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    generated_tokens: int
    finish_reason: str
    prompt_seconds: float
    answer_seconds: float


class LlamaModel:
    """
    A GGUF loaded by llama.cpp; a context manager.

    n_ctx: tokens of prompt and answer together. n_threads: by default half the logical processors, since hyperthreads and a
    busy machine make llama.cpp's threads wait for each other. longest_text: tokens of the longest text whose `hidden_states`
    will be asked for. Everything stays on the CPU (the wheels of PyPI know no GPU).
    Raises PipelineError, with the process intact, for a file that llama.cpp refuses.
    """

    def __init__(self, path: Path, *, n_ctx: int = 4096, n_threads: int | None = None, longest_text: int = 0) -> None:
        self.path = path
        self._key = secrets.token_hex(16)
        params = describe_server(path, self._key, n_ctx, n_threads or max(1, (os.cpu_count() or 2) // 2))
        if longest_text:
            keep_hidden_states(params, longest_text)
        self._server: Any = start_server(path, params)
        # /slots is answered by the server's main loop, the others are not. A server that is stopped before its loop has begun
        # never stops, which happens on a busy machine.
        self._ask("/slots")
        meta = self._ask("/v1/models")["data"][0]["meta"]
        self.n_ctx: int = meta["n_ctx"]
        self.vocabulary_size: int = meta["n_vocab"]
        self._harmless_token = self.tokenize("a")[0]

    def __enter__(self) -> LlamaModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and give the memory back."""
        self._server = None
        gc.collect()

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text; special tokens such as <|user|> are recognised, none are added."""
        return self._ask("/tokenize", {"content": text, "parse_special": True, "add_special": False})["tokens"]

    def apply_template(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt that the GGUF's own chat template makes of role/content messages, ready for an answer."""
        return self._ask("/apply-template", {"messages": list(messages)})["prompt"]

    def log_probabilities(self, tokens: Sequence[int]) -> np.ndarray:
        """Natural logarithms of the next token's probabilities after `tokens`, float64 [vocabulary_size]."""
        # llama.cpp tells no probabilities where it generates an end token or half a UTF-8 character, so it is made to generate
        # a harmless token; the probabilities are those of the raw logits, which the bias does not touch.
        question = {"prompt": list(tokens), "n_predict": 1, "n_probs": self.vocabulary_size, "temperature": 0.0,
                    "logit_bias": [[self._harmless_token, 1e6]], "cache_prompt": True}
        entries = self._ask("/completion", question)["completion_probabilities"][0]["top_logprobs"]
        result = np.full(self.vocabulary_size, -np.inf)
        for entry in entries:
            result[entry["id"]] = entry["logprob"]
        return result

    def hidden_states(self, tokens: Sequence[int]) -> np.ndarray:
        """
        What the output matrix is multiplied with at every place of a text, float32 [len(tokens), width], in one go.

        llama.cpp computes and keeps all logits meanwhile: 8 bytes for each token and entry of the vocabulary.
        Raises PipelineError for a text above `longest_text`.
        """
        answer = self._ask("/embedding", {"content": list(tokens), "embd_normalize": -1})
        return np.array(answer[0]["embedding"], dtype=np.float32)

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_tokens: int = 512,
        stop: Sequence[str] = (),
        seed: int = 42,
    ) -> Completion:
        """
        Generate after a prompt given as text (special tokens recognised) or as token ids; deterministic at temperature 0.

        top_k 0 and top_p 1 switch those filters off; llama.cpp's other filters and penalties are off.
        Raises PipelineError when the prompt does not fit n_ctx: it is never cut.
        """
        answer = self._ask("/completion", {
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": 0.0, "n_predict": max_tokens,
            "stop": list(stop), "seed": seed, "cache_prompt": False, "return_tokens": True,
        })
        return Completion(
            text=answer["content"],
            tokens=tuple(answer["tokens"]),
            prompt_tokens=answer["tokens_evaluated"],
            generated_tokens=answer["tokens_predicted"],
            finish_reason="length" if answer["stop_type"] == "limit" else "stop",
            prompt_seconds=answer["timings"]["prompt_ms"] / 1000,
            answer_seconds=answer["timings"]["predicted_ms"] / 1000,
        )

    def _ask(self, path: str, question: dict[str, Any] | None = None) -> Any:
        if self._server is None:
            raise PipelineError(f"{self.path.name} is closed")
        data = None if question is None else json.dumps(question).encode("utf-8")
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(self._server.listening_address + path, data, headers)
        try:
            with LOOPBACK.open(request) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise PipelineError(f"llama.cpp with {self.path.name}: {read_message(error)}") from None


def describe_server(path: Path, key: str, n_ctx: int, n_threads: int) -> Any:
    """xllamacpp.CommonParams for a server that prints nothing."""
    try:
        import xllamacpp
    except ImportError:
        raise PipelineError("xllamacpp is not installed: pip install xllamacpp") from None
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_gpu_layers, params.cpuparams.n_threads = n_ctx, 0, n_threads
    # fit_params would change n_ctx by itself to fit a GPU; a warm-up run and the web page are of no use here.
    params.fit_params, params.warmup, params.ui, params.verbosity, params.endpoint_slots = False, False, False, 0, True
    params.n_parallel, params.api_keys = 1, [key]
    return params


def keep_hidden_states(params: Any, longest_text: int) -> None:
    """Have a server tell the states of texts up to a length; it takes each in one piece."""
    import xllamacpp

    params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
    params.n_batch = params.n_ubatch = longest_text


def start_server(path: Path, params: Any) -> Any:
    """Raises PipelineError for a missing, damaged or unknown file."""
    import xllamacpp

    if not path.is_file():
        raise PipelineError(f"{path} is missing: run  python export_gguf.py  first")
    try:
        return xllamacpp.Server(params)
    except RuntimeError:
        raise PipelineError(
            f"llama.cpp can not load {path}: the file is damaged, needs more memory than is free, or a newer xllamacpp"
        ) from None


def read_message(error: urllib.error.HTTPError) -> str:
    """llama.cpp's own sentence, or the HTTP status."""
    try:
        return json.load(error)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code}"
