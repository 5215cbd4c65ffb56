"""Masks as polygons along the edges of their pixels, from which pycocotools draws exactly the same mask."""

from __future__ import annotations

import numpy as np


def mask_polygons(mask_HW: np.ndarray) -> list[list[float]]:
    """Polygons ``[x1, y1, x2, y2, ...]`` whose union is the mask, bool ``[H, W]``; none if it is empty.

    The corners are pixel corners. Parts that only touch at a corner are polygons of their own. A part with a hole is
    cut at the hole, since COCO's polygons have no holes.
    """
    polygons: list[list[float]] = []
    pieces = [(0, np.asarray(mask_HW, bool))]
    while pieces:
        left, piece_HW = pieces.pop()
        loops = _loops(piece_HW)
        holes = [loop_P2 for loop_P2 in loops if _is_hole(loop_P2, piece_HW)]
        if holes:
            cut = int(holes[0][:, 0].min() + holes[0][:, 0].max()) // 2
            pieces += [(left + cut, piece_HW[:, cut:]), (left, piece_HW[:, :cut])]
        else:
            polygons += [(loop_P2 + (left, 0)).ravel().astype(float).tolist() for loop_P2 in loops]
    return polygons


def connected(polygons: list[list[float]]) -> list[float]:
    """One polygon of several: bridges without width lead from the first to each of the others and back.

    For formats in which an object is one polygon. Programs that also draw the outline draw the bridges one pixel wide.
    """
    first, *others = polygons
    start = first[:2]
    joined = list(first)
    for polygon in others:
        joined += [*start, *polygon, *polygon[:2]]
    return joined + (start if others else [])


def _loops(mask_HW: np.ndarray) -> list[np.ndarray]:
    """Closed outlines along pixel edges, int ``[P, 2]`` corners (x, y) each, of parts and of holes."""
    padded = np.pad(mask_HW, 1).astype(np.uint8)
    count = padded[:-1, :-1] + padded[:-1, 1:] + padded[1:, :-1] + padded[1:, 1:]
    falling = (padded[:-1, :-1] == padded[1:, 1:]) & (padded[:-1, 1:] == padded[1:, :-1]) & (count == 2)
    # A corner where two pixels touch diagonally occurs twice, once for each pixel.
    corners_C2 = np.concatenate([np.argwhere(count % 2 == 1), np.argwhere(falling).repeat(2, 0)])
    if len(corners_C2) == 0:
        return []
    y, x = corners_C2.T
    copy = np.concatenate([np.zeros((count % 2 == 1).sum(), int), np.tile([0, 1], falling.sum())])
    # Of its two copies, the first is the end of the edge from the left. It is the end of the edge from above if the
    # pixel at its upper left is in the mask, else the start of the edge down.
    upper_left = padded[y, x] == 1
    vertical_copy = np.where(upper_left, copy, 1 - copy)
    partner_in_row = _partners(np.lexsort((copy, x, y)))
    partner_in_column = _partners(np.lexsort((vertical_copy, y, x)))
    loops, open_corners = [], set(range(len(corners_C2)))
    for corner in range(len(corners_C2)):
        loop = []
        while corner in open_corners:
            other = partner_in_row[corner]
            loop += [corner, other]
            open_corners -= {corner, other}
            corner = partner_in_column[other]
        if loop:
            loops.append(np.stack([x[loop], y[loop]], 1))
    return loops


def _partners(order: np.ndarray) -> list[int]:
    """For each corner the other end of its edge; `order` lists the ends of the edges in pairs."""
    partner = np.empty(len(order), int)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner.tolist()


def _is_hole(loop_P2: np.ndarray, mask_HW: np.ndarray) -> bool:
    """True if the outline is that of a hole: the pixel inside its upper left corner is not in the mask."""
    x, y = loop_P2[np.lexsort((loop_P2[:, 0], loop_P2[:, 1]))[0]]
    return not mask_HW[y, x]
