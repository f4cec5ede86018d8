"""A tokenizer.json as the vocabulary of a GGUF."""
