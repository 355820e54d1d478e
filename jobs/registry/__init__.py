"""Registered and uploaded data sets and models: checked, and unpacked once on each machine."""
