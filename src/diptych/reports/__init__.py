"""HTML documents and galleries."""
