"""What the four scripts stand on: contracts between stages, foreign systems, and mechanisms with a name."""
