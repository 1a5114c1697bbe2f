"""Compositional checks: does a model read word order and attributes, or only words."""
