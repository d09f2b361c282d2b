"""MoveNet as a detector in videos: one person, or several, each in a square that follows them from frame to frame.

Letters: K = 17 keypoints (COCO's).
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from common.detectors.network import MoveNet, load_movenet
from common.detectors.squares import (
    ELSEWHERE,
    Square,
    around,
    cut_out,
    in_picture,
    off_middle,
    painted_over,
    same_person,
    sees_torso,
    tighter,
    tiles,
    whole,
)
from common.errors import FlagError

# Without a torso, this many keypoints with this score are somebody still: a face or a pair of arms.
SOME, SCORE = 5, 0.3
# Who is looked for beside others shows so many keypoints, so that furniture is nobody; every so many frames, at most so
# many people.
MOST_OF_THEM, SEARCH, MOST = 10, 10, 20


class OnePerson:
    """MoveNet, looking at one person: at first the most central one.

    Each square needs the keypoints of the frame before, so that frames are looked at one by one. Batches of them would
    not be faster: on a CPU, eight frames at once take longer than eight by themselves.
    """

    name = 'MoveNet Thunder 4'

    def __init__(self, network: MoveNet):
        self.network = network

    def layout(self, keypoints: int) -> str | None:
        """Return the name of the order of its keypoints."""
        return 'coco'

    def detect(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the person (1, K, 3) float64 of each frame (H, W, 3) uint8: x, y in pixels, score; (0, K, 3) of none.

        Where nobody was seen in the frame before, the whole picture is looked at, then the square around who is found.
        """
        square = None
        for frame in frames:
            height, width = frame.shape[:2]
            found = self._look(frame, whole(width, height)) if square is None else self._follow(frame, square)
            closer = around(found, width, height)
            if square is None and closer is not None:
                found = self._look(frame, closer)
                closer = around(found, width, height)
            square = closer
            yield found[None] if is_somebody(found) else found[:0].reshape(0, *found.shape)

    def _follow(self, frame: np.ndarray, square: Square) -> np.ndarray:
        """Return (K, 3) of the person whose square this is, and not of somebody who is more striking beside them."""
        found = self._look(frame, square)
        if sees_torso(found) and off_middle(found, square) > ELSEWHERE:
            again = self._look(frame, tighter(square))
            if sees_torso(again) and off_middle(again, square) < off_middle(found, square):
                return again
        return found

    def _look(self, frame: np.ndarray, square: Square) -> np.ndarray:
        """Return (K, 3) x, y in pixels and score of the most central person of a square."""
        picture = torch.from_numpy(cut_out(frame, square, self.network.side))
        with torch.inference_mode():
            shares = self.network(picture[None].to(self.network.central.device))[0]
        return in_picture(shares.cpu().numpy(), square)


class SeveralPeople(OnePerson):
    """MoveNet, looking at several people: each is followed in a square of their own.

    Others are looked for every SEARCH frames, in the whole picture and in parts of it, where those who are found are
    painted over. Until then, who is lost is looked for where they were.
    """

    name = 'MoveNet Thunder 4, several people'

    def detect(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the people (N, K, 3) float64 of each frame (H, W, 3) uint8: x, y in pixels, score."""
        squares: list[Square] = []
        for number, frame in enumerate(frames):
            height, width = frame.shape[:2]
            people: list[np.ndarray] = []
            lost: list[Square] = []
            for square in squares:
                found = self._follow(frame, square)
                if not sees_torso(found):
                    lost.append(square)
                elif not any(same_person(found, other) for other in people):
                    people.append(found)
            if number % SEARCH == 0:
                people, lost = people + self._others(frame, people), []
            squares = [around(person, width, height) or whole(width, height) for person in people] + lost
            yield np.array(people).reshape(len(people), -1, 3) if people else np.zeros((0, 17, 3))

    def _others(self, frame: np.ndarray, known: list[np.ndarray]) -> list[np.ndarray]:
        """Return the people, (K, 3) each, of a frame beside those who are known, MOST of all of them at most."""
        height, width = frame.shape[:2]
        others: list[np.ndarray] = []
        for person in known:
            frame = painted_over(frame, person)
        for part in tiles(width, height):
            while len(known) + len(others) < MOST:
                found = self._look(frame, part)
                closer = around(found, width, height)
                found = found if closer is None else self._look(frame, closer)
                if not sees_torso(found) or (found[:, 2] >= SCORE).sum() < MOST_OF_THEM:
                    break
                frame = painted_over(frame, found)
                if any(same_person(found, other) for other in [*known, *others]):
                    break
                others.append(found)
        return others


def is_somebody(keypoints: np.ndarray) -> bool:
    """Tell whether (K, 3) x, y, score are a person, or a part of one: MoveNet always answers."""
    return sees_torso(keypoints) or int((keypoints[:, 2] >= SCORE).sum()) >= SOME


def open_detector(files: tuple[str, ...], device: str, everybody: bool = False) -> OnePerson:
    """Return the MoveNet that this program ships, for one person or for everybody.

    Raises FlagError for files, FileError for damaged weights.
    """
    if files:
        raise FlagError('--detector-files is for --detector rtmlib: MoveNet has its own')
    return (SeveralPeople if everybody else OnePerson)(load_movenet().to(device))
