"""The smallest model that llama.cpp loads around a vocabulary, and questions to it in bulk."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from distill.gguf.vocabulary.tokenizer import Vocabulary, add_vocabulary
from distill.llamacpp import LlamaModel

WIDTH = 32


def write_vocabulary_gguf(path: Path, vocabulary: Vocabulary) -> Path:
    """A Llama of one layer, all zeros, that knows `vocabulary`."""
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH)
    add_vocabulary(writer, vocabulary)
    square = np.zeros((WIDTH, WIDTH), np.float32)
    writer.add_tensor("token_embd.weight", np.zeros((len(vocabulary.tokens), WIDTH), np.float16))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", square)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokenize_all(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """The ids that llama.cpp finds in each text; several requests at a time, because most of each is waiting."""
    with LlamaModel(path, n_ctx=64, n_threads=1) as model, ThreadPoolExecutor(4) as threads:
        return list(threads.map(model.tokenize, texts))
