"""Masks from boxes: video instance segmentation trained without a single mask."""
