"""Prompts that a picture might have been made with: predicted as a vector, said in words, and scored."""
