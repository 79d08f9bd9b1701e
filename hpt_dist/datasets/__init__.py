"""Shards and manifests: planned, written, checked, looked at; subsets of them."""
