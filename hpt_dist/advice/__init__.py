"""Advice: a look at a dataset, and a recipe for it with a reason for each setting."""

from hpt_dist.advice.recommending import Advice, check_time, recommend

__all__ = ["Advice", "check_time", "recommend"]
