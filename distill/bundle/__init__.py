"""The bundle for the machine without a network: a finished gguf/ with its proof and its installer, as one zip or in parts."""
