"""Hierarchical PreTraining, in stages, safely, on one machine or a cluster."""

__version__ = "0.1.0"
