"""An Ollama on loopback that writes down every prompt that HybridRAG3 sends."""
