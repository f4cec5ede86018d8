from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from tokenizers import Tokenizer

from distill.errors import PipelineError
from distill.gguf.convert import Output, convert
from distill.llamacpp import LlamaModel

PROMPT = "<|user|>What torque do the bolts need?<|end|><|assistant|>"


@pytest.fixture(scope="module")
def gguf(tiny_phi3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llamacpp") / "tiny.gguf"
    convert(tiny_phi3, None, [Output(path, "f16", "tiny", False)])
    return path


@pytest.fixture(scope="module")
def llama(gguf: Path) -> Iterator[LlamaModel]:
    with LlamaModel(gguf, n_ctx=256, n_threads=1) as model:
        yield model


def test_tokens_are_those_of_the_tokenizer(llama: LlamaModel, tiny_phi3: Path) -> None:
    expected = Tokenizer.from_file(str(tiny_phi3 / "tokenizer.json")).encode(PROMPT, add_special_tokens=False).ids
    assert llama.tokenize(PROMPT) == expected
    assert expected[0] == 997  # <|user|> is one token


def test_the_template_is_the_files_own(llama: LlamaModel) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    assert llama.apply_template(messages) == "<|system|>S<|end|><|user|>Q<|end|><|assistant|>"


def test_probabilities_cover_the_vocabulary(llama: LlamaModel) -> None:
    found = llama.log_probabilities(llama.tokenize(PROMPT))
    assert found.shape == (llama.vocabulary_size,) == (1024,)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-5)


def test_probabilities_even_where_the_model_would_stop(llama: LlamaModel) -> None:
    # Random prompts reach places where the likeliest token ends the answer or is half a UTF-8 character.
    rng = np.random.default_rng(0)
    for _ in range(60):
        found = llama.log_probabilities([int(token) for token in rng.integers(0, 900, size=3)])
        assert np.isfinite(found).all()


def test_hidden_states_times_the_embedding_are_the_probabilities(gguf: Path) -> None:
    embedding = next(tensor for tensor in GGUFReader(gguf).tensors if tensor.name == "token_embd.weight").data
    with LlamaModel(gguf, n_ctx=256, n_threads=1, longest_text=32) as model:
        tokens = model.tokenize(PROMPT)
        states, own = model.hidden_states(tokens), model.log_probabilities(tokens)
    assert states.shape == (len(tokens), 256)
    logits = states[-1] @ embedding.astype(np.float32).T
    np.testing.assert_allclose(logits - np.log(np.exp(logits).sum()), own, atol=0.02)


def test_probabilities_are_the_same_beside_hidden_states(gguf: Path, llama: LlamaModel) -> None:
    tokens = llama.tokenize(PROMPT)
    with LlamaModel(gguf, n_ctx=256, n_threads=1, longest_text=64) as model:
        model.hidden_states(tokens)
        np.testing.assert_allclose(model.log_probabilities(tokens), llama.log_probabilities(tokens), atol=0.02)


def test_a_text_longer_than_was_announced_has_no_hidden_states(gguf: Path) -> None:
    with (
        LlamaModel(gguf, n_ctx=256, n_threads=1, longest_text=32) as model,
        pytest.raises(PipelineError, match=r"llama\.cpp with tiny\.gguf: .*40"),
    ):
        model.hidden_states([5] * 40)


def test_hidden_states_must_be_announced(llama: LlamaModel) -> None:
    with pytest.raises(PipelineError, match=r"llama\.cpp with tiny\.gguf: "):
        llama.hidden_states([5, 6])


def test_greedy_completion_follows_the_probabilities(llama: LlamaModel) -> None:
    tokens = llama.tokenize(PROMPT)
    done = llama.complete(tokens, max_tokens=4)
    assert done.tokens[0] == int(llama.log_probabilities(tokens).argmax())
    assert done.tokens[1] == int(llama.log_probabilities([*tokens, done.tokens[0]]).argmax())
    assert (done.prompt_tokens, done.generated_tokens, done.finish_reason) == (len(tokens), 4, "length")


def test_a_completion_tells_how_long_reading_and_writing_took(llama: LlamaModel) -> None:
    started = time.monotonic()
    done = llama.complete(PROMPT, max_tokens=16)
    assert min(done.prompt_seconds, done.answer_seconds) > 0
    assert done.prompt_seconds + done.answer_seconds < time.monotonic() - started


def test_text_and_token_prompts_are_the_same(llama: LlamaModel) -> None:
    assert llama.complete(PROMPT, max_tokens=8).tokens == llama.complete(llama.tokenize(PROMPT), max_tokens=8).tokens


def test_temperature_zero_repeats_itself_and_a_seed_does_too(llama: LlamaModel) -> None:
    assert llama.complete(PROMPT, max_tokens=12).tokens == llama.complete(PROMPT, max_tokens=12).tokens
    warm = [llama.complete(PROMPT, temperature=1.5, max_tokens=12, seed=seed).tokens for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]


def test_top_k_1_is_greedy_at_any_temperature(llama: LlamaModel) -> None:
    assert llama.complete(PROMPT, temperature=2, top_k=1, max_tokens=6).tokens == llama.complete(PROMPT, max_tokens=6).tokens


def test_a_stop_text_ends_the_answer_and_is_left_out(llama: LlamaModel) -> None:
    full = llama.complete(PROMPT, max_tokens=30).text
    stop = next(character for character in full if character.isascii() and character.isalpha())
    done = llama.complete(PROMPT, max_tokens=30, stop=[stop])
    assert done.text == full[: full.index(stop)]
    assert done.finish_reason == "stop"


def test_a_prompt_that_does_not_fit_is_never_cut(llama: LlamaModel) -> None:
    with pytest.raises(PipelineError, match=r"tiny\.gguf: .*300 tokens.* context size"):
        llama.complete([5] * 300)


def test_a_missing_file_names_its_producer(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"no\.gguf is missing: run  python export_gguf\.py"):
        LlamaModel(tmp_path / "no.gguf")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"\x00" * 5_000, b"half"])
def test_a_damaged_file_is_one_line_and_the_process_lives(gguf: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(gguf.read_bytes()[:500_000] if content == b"half" else content)
    with pytest.raises(PipelineError, match=r"can not load .*bad\.gguf"):
        LlamaModel(path)


def test_nothing_is_printed(gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with LlamaModel(gguf, n_ctx=256, n_threads=1) as model:
        model.complete(PROMPT, max_tokens=2)
    assert capfd.readouterr() == ("", "")


def test_proxy_settings_do_not_matter(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with LlamaModel(gguf, n_ctx=256, n_threads=1) as model:
        assert model.tokenize("a")


def test_after_closing_there_is_nothing_to_ask(gguf: Path) -> None:
    model = LlamaModel(gguf, n_ctx=256, n_threads=1)
    model.close()
    with pytest.raises(PipelineError, match="is closed"):
        model.tokenize("a")


def test_closing_at_once_never_hangs(gguf: Path) -> None:
    # On a busy machine one in thirty of these waited for ever, while the server's main loop had not begun.
    for _ in range(20):
        LlamaModel(gguf, n_ctx=64, n_threads=1).close()
