"""Readers of data sets, one file for each family of formats."""
