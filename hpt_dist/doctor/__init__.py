"""What is missing on this machine or a cluster, and how to fix it."""
