"""Metrics of a trial: to a file first, then to MLflow."""
