"""The engine as a process: start, lock, events, stop, exit codes; and opening the files that people name."""
