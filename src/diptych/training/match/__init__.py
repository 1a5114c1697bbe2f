"""The matching recipe."""
