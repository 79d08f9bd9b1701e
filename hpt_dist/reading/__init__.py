"""From shards to batches: which samples, their bytes, their pixels, their views."""
