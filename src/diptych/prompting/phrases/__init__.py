"""Phrase lists, and prompt composition from them."""
