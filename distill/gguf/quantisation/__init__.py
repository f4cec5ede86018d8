"""The types of a GGUF: which tensor gets which, and how numbers become their bytes."""
