"""Who answers: a chat model over HTTP or the extractive one, its key, and the answers on disk."""
