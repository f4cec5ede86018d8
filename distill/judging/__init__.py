"""The optional second opinion of stage 4: a model that compares the answers of base and tuned."""
