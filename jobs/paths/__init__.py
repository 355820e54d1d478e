"""Files below the data roots: what jobs may read, and whether it has changed."""
