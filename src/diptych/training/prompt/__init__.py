"""The prompt recipe."""
