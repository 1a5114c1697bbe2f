"""Data set readers, one module per family of formats."""
