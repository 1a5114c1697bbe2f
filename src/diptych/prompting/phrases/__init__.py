"""Editable lists of phrases, and composing prompts from them."""
