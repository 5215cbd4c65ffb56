"""Schedules of the weights of losses."""

from __future__ import annotations


def ramp(step: int, start: int, warmup: int) -> float:
    """Factor on a weight that rises linearly over the `warmup` steps after `start`; 0 before `start`."""
    if step < start:
        return 0.0
    return min((step - start + 1) / warmup, 1.0) if warmup else 1.0
