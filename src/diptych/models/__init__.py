"""Dual encoders: towers, projection heads, checkpoints and their safety rules."""
