"""Models: dual encoders, their towers and heads, model directories and their safety rules."""
