"""Captions of pictures, whatever model writes them: chosen among, written for many pictures, and scored."""
