"""Paths below the data roots: which of them jobs may read, and whether files have changed."""
