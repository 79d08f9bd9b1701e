"""Weights in and out: found, read, matched to a backbone, named as other libraries name them."""
