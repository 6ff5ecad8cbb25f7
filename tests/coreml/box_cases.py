"""Cases: boxes that overlap, against a slow search and what coremltools' test expects."""

from __future__ import annotations

import itertools

import numpy as np

from tests.coreml.cases import Array, case, normal


def overlap(a: Array, b: Array) -> float:
    """Of two boxes (x, y, width, height) around their centres, shared by covered area."""
    sides = [
        min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2)
        - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2)
        for i in range(2)
    ]
    common = max(sides[0], 0) * max(sides[1], 0)
    return float(common / (a[2] * a[3] + b[2] * b[3] - common))


def searched(boxes: Array, scores: Array, most: int, share: float, least: float, each: bool):  # type: ignore[no-untyped-def]
    """For one image: each time the best box that is left, and those it covers taken away."""
    left = {i: float(s.max()) for i, s in enumerate(scores) if s.max() > least}
    left = left or {int(scores.max(1).argmax()): 0.0}
    found: list[int] = []
    while left and len(found) < most:
        i = max(left, key=lambda j: left[j])
        found.append(i)
        left = {
            j: s
            for j, s in left.items()
            if j != i
            and not (
                overlap(boxes[i], boxes[j]) > share
                and (not each or scores[i].argmax() == scores[j].argmax())
            )
        }
    rest = most - len(found)
    return (
        np.pad(boxes[found], [(0, rest), (0, 0)]),
        np.pad(scores[found], [(0, rest), (0, 0)]),
        np.pad(np.int32(found), (0, rest), constant_values=-1),
        np.int32(len(found)),
    )


rng = np.random.default_rng(4)
BOXES = rng.uniform(1, 6, (2, 12, 4)).astype(np.float32)
for classes, each, least in itertools.product((1, 3), (False, True), (-9.0, 0.5, 9.0)):
    case(
        "non_maximum_suppression",
        {"boxes": BOXES, "scores": normal(2, 12, classes)},
        lambda b, s, e=each, t=least: [
            np.stack(v)
            for v in zip(*(searched(b[i], s[i], 7, 0.2, t, e) for i in range(2)), strict=True)
        ],
        iou_threshold=0.2,
        score_threshold=least,
        max_boxes=7,
        per_class_suppression=each,
        half=False,
        name=f"{classes}-{each}-{least}",
    )
    if least == -9.0:
        case(
            "non_maximum_suppression",
            {"boxes": BOXES.swapaxes(1, 2).copy(), "scores": normal(2, classes, 12)},
            lambda b, s, e=each: [
                v.swapaxes(1, 2) if v.ndim == 3 else v
                for v in map(
                    np.stack,
                    zip(
                        *(searched(b[i].T, s[i].T, 7, 0.2, -9.0, e)[:3] for i in range(2)),
                        strict=True,
                    ),
                )
            ],
            opset=17,
            iou_threshold=0.2,
            max_boxes=7,
            per_class_suppression=each,
            half=False,
            name=f"{classes}-{each}",
        )
POINTS = np.repeat(np.arange(4, dtype=np.float32), 4).reshape(1, 4, 4)
case(
    "non_maximum_suppression",
    {"boxes": POINTS, "scores": np.array([-3.5, 9.4, 2.3, 0.7], np.float32).reshape(1, 4, 1)},
    lambda b, s: [b[:, 1:3], s[:, 1:3], np.int32([[1, 2]]), np.int32([2])],
    iou_threshold=0.2,
    score_threshold=0.4,
    max_boxes=2,
    per_class_suppression=True,
    half=False,
    name="apple",
)
