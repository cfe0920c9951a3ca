"""Learning without labels from removing noise: how much there is at each step, and the loss of guessing it."""
