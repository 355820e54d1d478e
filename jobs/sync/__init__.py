"""Locks between processes, cancellation of long work, and background threads."""
