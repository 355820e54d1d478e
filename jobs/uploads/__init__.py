"""Untrusted files: received, unpacked and checked in a limited process, cached once on each machine."""
