"""The image index and the search in it."""
