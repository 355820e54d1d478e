"""Training one detector: a step, its schedule, its state."""
