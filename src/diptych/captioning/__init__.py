"""Captioning: captioners, decoding strategies, candidate captions and caption sinks."""
