"""Trials are started here or on Slurm, seen where they stand, and ended."""
