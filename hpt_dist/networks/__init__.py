"""Backbones, batch norm over groups of the batch, and the precision that they compute in."""
