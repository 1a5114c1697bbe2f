"""The captioning recipe."""
