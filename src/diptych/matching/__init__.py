"""Matching: matchers and their heads, calibration, hubness, negatives and re-ranking."""
