"""Squares of a picture that a detector of one person looks at: one that follows a person, and those to find others in.

Letters: K = 17 keypoints (COCO's).
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from common.skeleton import COCO

TORSO = tuple(COCO.joints.index(f'{side}_{part}') for part in ('shoulder', 'hip') for side in ('left', 'right'))
SHOULDERS, HIPS = TORSO[:2], TORSO[2:]
SURE = 0.2  # score from which a keypoint says where the person is
# Half a square in distances from the middle of the hips: to the farthest shoulder or hip, and to the farthest keypoint.
OF_TORSO, OF_BODY = 1.9, 1.2
LEAST = 16  # pixels; a person who is smaller is none
# Shares of a square. Hips so far from its middle, where they were a frame before, are somebody else's, unless a square
# of half its side, in which only the person is, has nobody.
ELSEWHERE, TIGHT = 0.15, 0.5
# In the longer side of a person's box: how thick limbs are painted over, how large a head, and how far the median
# keypoint of two detections of one person is apart at most.
LIMB, HEAD, SAME = 0.12, 0.2, 0.06
PAINT = (128, 128, 128)


class Square(NamedTuple):
    """A square of a picture, in whole pixels; it may reach beyond the picture, where all is black."""

    left: int
    top: int
    side: int


def whole(width: int, height: int) -> Square:
    """Return the smallest square that a whole picture is the middle of."""
    side = max(width, height)
    return Square((width - side) // 2, (height - side) // 2, side)


def sees_torso(keypoints: np.ndarray) -> bool:
    """Tell whether (K, 3) x, y, score show a person: a shoulder and a hip at least."""
    sure = keypoints[:, 2] >= SURE
    return bool(sure[list(SHOULDERS)].any() and sure[list(HIPS)].any())


def around(keypoints: np.ndarray, width: int, height: int) -> Square | None:
    """Return the square around the person of (K, 3) x, y in pixels and score, such as they are expected next.

    The rule is that of MoveNet's tutorial (https://www.tensorflow.org/hub/tutorials/movenet). None where no torso is
    seen, and where the square would be no smaller than that of the whole picture.
    """
    if not sees_torso(keypoints):
        return None
    sure = keypoints[:, 2] >= SURE
    middle = keypoints[[joint for joint in HIPS if sure[joint]], :2].mean(axis=0)
    away = np.abs(keypoints[:, :2] - middle).max(axis=1)
    half = max(OF_TORSO * away[[joint for joint in TORSO if sure[joint]]].max(), OF_BODY * away[sure].max())
    side = 2 * round(float(half))
    if side < LEAST or side >= max(width, height):
        return None
    return Square(round(float(middle[0])) - side // 2, round(float(middle[1])) - side // 2, side)


def off_middle(keypoints: np.ndarray, square: Square) -> float:
    """Return how far the hips of (K, 3) x, y, score are from the middle of a square, in its sides."""
    middle = np.array([square.left, square.top]) + square.side / 2
    return float(np.linalg.norm(keypoints[list(HIPS), :2].mean(axis=0) - middle) / square.side)


def tighter(square: Square) -> Square:
    """Return the square with the same middle that shows less of what is around a person."""
    side = round(TIGHT * square.side)
    return Square(square.left + (square.side - side) // 2, square.top + (square.side - side) // 2, side)


def tiles(width: int, height: int) -> list[Square]:
    """Return the square of the whole picture, and those of half its side that cover the picture and overlap by half."""
    side = max(width, height) // 2

    def starts(length: int) -> list[int]:
        steps = -(-max(0, length - side) // max(1, side // 2))
        return [round(step * (length - side) / steps) for step in range(steps + 1)] if steps else [(length - side) // 2]
    return [whole(width, height), *(Square(left, top, side) for top in starts(height) for left in starts(width))]


def _size(keypoints: np.ndarray) -> float:
    """Return the longer side of the box around the keypoints (K, 3) that are sure, in pixels; at least 1."""
    sure = keypoints[keypoints[:, 2] >= SURE, :2]
    return max(1.0, float(np.ptp(sure, axis=0).max())) if len(sure) else 1.0


def same_person(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell whether keypoints (K, 3) x, y, score of one frame lie where those of another detection do."""
    apart = float(np.median(np.linalg.norm(a[:, :2] - b[:, :2], axis=1)))
    return apart < SAME * max(_size(a), _size(b))


def painted_over(picture: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 in which the person of (K, 3) x, y, score is grey."""
    image = Image.fromarray(picture)
    pen, size = ImageDraw.Draw(image), _size(keypoints)
    at = [(float(x), float(y)) for x, y in keypoints[:, :2]]

    def blob(joint: int, across: float) -> None:
        (x, y), half = at[joint], across * size / 2
        pen.ellipse((x - half, y - half, x + half, y + half), fill=PAINT)
    left_shoulder, right_shoulder, left_hip, right_hip = TORSO[0], TORSO[1], TORSO[2], TORSO[3]
    pen.polygon([at[joint] for joint in (left_shoulder, right_shoulder, right_hip, left_hip)], fill=PAINT)
    for joint, parent in COCO.edges:
        pen.line((*at[joint], *at[parent]), fill=PAINT, width=max(1, round(LIMB * size)))
    for joint in range(len(at)):
        blob(joint, HEAD if joint == COCO.joints.index('nose') else LIMB)
    return np.array(image)


def cut_out(picture: np.ndarray, square: Square, side: int) -> np.ndarray:
    """Return the square of a picture (H, W, 3) uint8 at another size, (side, side, 3) uint8.

    Pillow scales 8-bit pictures in whole numbers, so that the result is the same on every machine.
    """
    left, top, size = square
    part = Image.fromarray(picture).crop((left, top, left + size, top + size))  # black beyond the picture
    return np.array(part.resize((side, side), Image.Resampling.BILINEAR))


def in_picture(shares: np.ndarray, square: Square) -> np.ndarray:
    """Return (K, 3) x, y in pixels of the picture and score, float64, of y, x in shares of a square and score."""
    scaled = shares.astype(np.float64)
    return np.column_stack([square.left + square.side * scaled[:, 1], square.top + square.side * scaled[:, 0],
                            scaled[:, 2]])
