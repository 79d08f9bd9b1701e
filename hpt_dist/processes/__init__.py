"""Processes of this machine that run our own code and end with their parent."""
