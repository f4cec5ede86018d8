"""Stage 2's mechanisms: rows as tokens, the student with its adapters, the trainer, its checkpoints and its log."""
