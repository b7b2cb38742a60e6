"""What may vary: trials, the dimensions of a search space, and the space."""
