"""Speeds as ratios against peers, measured side by side in one run; `make bench-data` runs them."""
