"""What an answer must be to become a row: checks, near-duplicates, lengths, figures, the dataset card."""
