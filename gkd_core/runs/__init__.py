"""What each kind of job does from beginning to end, and what a run writes down."""
