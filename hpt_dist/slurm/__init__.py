"""Slurm: its commands, its queue, its scripts, and the profiles that describe a site."""
