"""HybridRAG3's index: its SQLite and vectors, the embedder that matches them, and exact search over the live chunks."""
