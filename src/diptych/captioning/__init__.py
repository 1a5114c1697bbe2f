"""Captioners: decoding, candidates, and writing captions for many images."""
