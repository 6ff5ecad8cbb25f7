"""Boxes that overlap with better ones taken away. Which ones depends on values, so that boxes and
scores are computed first."""

from __future__ import annotations

import math

import numpy as np

from tensorlogic.coreml.mil.table import row
from tensorlogic.coreml.mil.values import Array
from tensorlogic.coreml.program import ValueType


@row()
def non_maximum_suppression(
    boxes: Array,
    scores: Array,
    iou_threshold: float,
    max_boxes: int,
    score_threshold: float = -math.inf,
    per_class_suppression: bool = False,
    *,
    outputs: tuple[ValueType, ...],
) -> tuple[Array, ...]:
    """boxes [N, B, 4] of (x, y, width, height) around a centre, scores [N, B, K]; from iOS 17 on,
    where there is no fourth output, with the boxes last.

    Gives the boxes that are kept, best first, their scores and indices, and how many they are; what
    is left of max_boxes is 0, of indices -1. Where no score reaches the threshold the best box is
    kept.
    """
    last = len(outputs) == 3
    if last:
        boxes, scores = boxes.swapaxes(1, 2), scores.swapaxes(1, 2)
    count, classes = len(boxes), scores.shape[2]
    kept = np.zeros((count, max_boxes, 4), boxes.dtype)
    marks = np.zeros((count, max_boxes, classes), scores.dtype)
    places = np.full((count, max_boxes), -1, np.int32)
    numbers = np.zeros(count, np.int32)
    for i in range(count):
        best = scores[i].max(1).astype(np.float32)
        groups = scores[i].argmax(1) if per_class_suppression else np.zeros(len(best), int)
        found = _kept(boxes[i].astype(np.float32), best, groups, iou_threshold, score_threshold)
        n = min(len(found), max_boxes)
        kept[i, :n], marks[i, :n], places[i, :n] = (
            v[:n] for v in (boxes[i][found], scores[i][found], found)
        )
        numbers[i] = n
    if last:
        return kept.swapaxes(1, 2), marks.swapaxes(1, 2), places
    return kept, marks, places, numbers


def _kept(boxes: Array, best: Array, groups: Array, overlap: float, least: float) -> Array:
    """Indices of boxes by falling score, without those that overlap with an earlier one of their
    group."""
    order = np.argsort(-best, kind="stable")
    order = order[best[order] > least]
    if not len(order):
        return np.array([best.argmax()])
    shares = _overlaps(boxes)
    found: list[int] = []
    for i in order:
        rivals = [j for j in found if groups[j] == groups[i]]
        if not (shares[i, rivals] > overlap).any():
            found.append(int(i))
    return np.array(found)


def _overlaps(boxes: Array) -> Array:
    """The area that two boxes share, of the area that they cover; 0 if that is nothing."""
    middle, size = boxes[:, :2], boxes[:, 2:]
    low, high = middle - size / 2, middle + size / 2
    shared = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    common = shared.clip(0).prod(2)
    areas = size.prod(1)
    covered = areas[:, None] + areas - common
    share: Array = np.divide(common, covered, out=np.zeros_like(common), where=covered > 0)
    return share
