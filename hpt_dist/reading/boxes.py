"""The objects that are annotated in one image; see `images.boxes`."""

from hpt_dist.images.boxes import Boxes

__all__ = ["Boxes"]
