"""Metrics: pure functions of arrays and texts."""
