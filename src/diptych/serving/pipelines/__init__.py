"""transformers pipelines over diptych's models."""
