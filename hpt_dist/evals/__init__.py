"""Evaluations of a backbone's frozen features, and what their numbers are evidence of."""
