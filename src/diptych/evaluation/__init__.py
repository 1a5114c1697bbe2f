"""Metrics, evaluators, classifiers and comparisons of models."""
