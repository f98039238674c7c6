"""Training: split the slides, run the three stages, keep what a run writes."""
