"""Training one detector: the step, the learning rate schedule, the training state."""
