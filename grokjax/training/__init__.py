"""From settings to trained runs: one step of one run, the population, the loop."""
