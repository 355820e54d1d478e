"""Locks between processes, cancellation of long work, and work in the background."""
