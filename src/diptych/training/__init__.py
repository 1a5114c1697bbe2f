"""Recipes, the trainer they share, and their objectives."""
