"""Commands for those who change GKD."""
