"""HTML documents and image galleries."""
