"""Hugging Face tensors to one GGUF file for llama.cpp and Ollama, without a compiler and without a network."""
