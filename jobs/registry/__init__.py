"""Data sets and models that were registered or uploaded: checked, and unpacked once on each machine."""
