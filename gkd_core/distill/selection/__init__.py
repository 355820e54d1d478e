"""The ways to choose the prototypes of one class: the published one, the default, and baselines."""
