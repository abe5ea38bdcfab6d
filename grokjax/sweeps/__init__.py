"""Sweeps: the plan, its populations trained one after the other, results of all."""
