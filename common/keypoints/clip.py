"""From --predict's file and flags to one person's keypoints, ready to be lifted, with all that was done to them said.

Letters: T frames, K keypoints of the file, L of the lifter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import FileError, FlagError
from common.geometry.camera import normalise
from common.keypoints import Track, read_track
from common.keypoints.gaps import ABSENCE, absences, fill, strays
from common.keypoints.layouts import conversion, find_layout, stature, usable_keypoints
from common.keypoints.mistakes import refuse_mistakes, refuse_normalised
from common.skeleton import Skeleton

ASSUMED_FPS = 30.0
# Half-widths of the picture that a person's height takes up in training: through Human3.6M's lenses from 4 to 6 metres,
# where CMU's people have 0.72 to 0.93 for nine tenths of all takes.
USUAL_STATURE, SMALLEST, LARGEST = 0.82, 0.6, 1.1


@dataclass(frozen=True)
class Clip:
    """One person's keypoints, ready to be lifted.

    Attributes:
        pixels: (T, L, 2) float32 without gaps, in the lifter's layout.
        screen: (T, L, 2) float32, the same in normalised screen coordinates, at the size that lifters are used to.
        seen: (T, L) bool, True where the detector saw the keypoint itself.
        confidence: (T, L) float32, the detector's in each keypoint, 0 to 1; 0 where it saw none.
        present: (T,) bool, True where the detector saw anything of the person.
        frames: (T,) int64, the source's number of each frame.
        size: (width, height) of the picture. fps: frames per second.
        source: the file, its kind and its layout, in words.
    """

    pixels: np.ndarray
    screen: np.ndarray
    seen: np.ndarray
    confidence: np.ndarray
    present: np.ndarray
    frames: np.ndarray
    size: tuple[float, float]
    fps: float
    source: str


@dataclass(frozen=True)
class Asked:
    """What a user says of the keypoints in a file.

    Attributes:
        path: the file or folder.
        layout: the order of its keypoints, or `auto`.
        size: (width, height) of the picture in pixels, where the file does not say.
        fps: frames per second. person: a number or rank. video: which one, where the file holds several.
        min_score: keypoints with less are interpolated; None for the detector's own threshold.
        zoom: factor that the person is scaled by on the screen; None for the size of people trained on.
        as_is: take keypoints that look like a mistake.
    """

    path: str
    layout: str = 'auto'
    size: tuple[float, float] | None = None
    fps: float | None = None
    person: int | None = None
    video: str | None = None
    min_score: float | None = None
    zoom: float | None = None
    as_is: bool = False


def load_clip(asked: Asked, wanted: Skeleton, say: Callable[[str], None]) -> Clip:
    """Return the person's keypoints in the layout `wanted`, gaps filled, all that was done to them said.

    Raises FileError for a file that is broken or cannot be a person in pixels, FlagError for flags that do not fit it.
    """
    track, seen, elsewhere = _load_track(asked)
    shown = np.where(seen[..., None], track.points, np.nan)
    layout, how = find_layout(shown, asked.layout, track.layouts, f'{asked.path} ({track.kind})')
    size = asked.size or track.size
    if size is None:
        refuse_normalised(shown, asked.path)  # which the size of a picture would not help
        raise FlagError(f'{asked.path} does not say how large the picture is: add --image-size WIDTH HEIGHT, in '
                        f'pixels')
    if not asked.as_is:
        refuse_mistakes(shown, layout, size, asked.path)
    fps = asked.fps or track.fps or ASSUMED_FPS
    assumed = '' if asked.fps or track.fps else ' (assumed: --fps N)'
    source = f'{asked.path}: {track.kind}, layout {layout.name}'
    say(f'{source}, {how}; {len(track):,} frames, numbers {track.frames[0]} to {track.frames[-1]}, at {fps:g} fps'
        f'{assumed}, {size[0]:g}×{size[1]:g} pixels')
    say(f'person: {track.person}')
    matrix, made = conversion(wanted, layout, usable_keypoints(seen, layout))
    if made:
        say(f'for layout {wanted.name}: ' + '; '.join(f'{name} from {", ".join(of)}' for name, of in made.items()))
    used = matrix.any(axis=0)
    _say_gaps(track, seen[:, used], elsewhere, fps, say)
    pixels = np.einsum('lk,tkc->tlc', matrix[:, used], fill(track.points, seen)[:, used])
    own = np.zeros(pixels.shape[:2], bool)
    for index, name in enumerate(wanted.joints):
        if name in layout.joints and name not in made:
            own[:, index] = seen[:, layout.joints.index(name)]
    scores = np.where(seen, np.clip(track.scores, 0, 1), 0) @ np.abs(matrix.T) / np.abs(matrix).sum(axis=1)
    screen = _on_screen(pixels, size, stature(normalise(shown, *size), layout), asked.zoom, say)
    return Clip(pixels.astype(np.float32), screen, own, scores.astype(np.float32), seen.any(axis=1), track.frames, size,
                fps, source)


def _on_screen(pixels: np.ndarray, size: tuple[float, float], tall: float, zoom: float | None, say) -> np.ndarray:
    """(T, L, 2) float32 screen coordinates of pixels, enlarged or reduced to the size that lifters see people in.

    How far a keypoint is from its neighbours tells a lifter metres, as seen through the lenses and from the distances
    that it was trained with. A reduced person is one in a larger picture with the same centre; an enlarged one is
    also put into its middle.

    Args:
        size: (width, height) in pixels. tall: the person's stature on the screen. zoom: what --zoom says.
    """
    screen = normalise(pixels, *size)
    if zoom is None:
        usual = not np.isfinite(tall) or SMALLEST <= tall <= LARGEST
        zoom = 1.0 if usual else USUAL_STATURE / tall
    if zoom != 1:
        say(f'the person is {tall:.2f} half-widths of the picture tall; people trained on are about {USUAL_STATURE}: '
            f'scaled by {zoom:.2f} (--zoom 1 leaves them as they are)')
    if zoom > 1:
        screen = screen - np.median(screen, axis=(0, 1))
    return (zoom * screen).astype(np.float32)


def _load_track(asked: Asked) -> tuple[Track, np.ndarray, np.ndarray]:
    """Return the track, which keypoints count (T, K) bool, and where the person is another one (T,) bool."""
    track = read_track(Path(asked.path), asked.person, asked.video, asked.size)
    threshold = track.threshold if asked.min_score is None else asked.min_score
    seen = (track.scores > 0) & (track.scores >= threshold)
    if not seen.any():
        raise FileError(f'{asked.path}: no keypoint has a score of {threshold:g} or more' +
                        (': lower --min-score' if (track.scores > 0).any() else ', all are missing'))
    elsewhere = strays(track.points, seen)
    seen[elsewhere] = False
    return track, seen, elsewhere


def _say_gaps(track: Track, seen: np.ndarray, elsewhere: np.ndarray, fps: float, say) -> None:
    """What is interpolated: how many of the keypoints that are used, (T, U) `seen`, and the frames of long absences."""
    if seen.all():
        say(f'each of the {seen.shape[1]} keypoints that are used is there in every frame')
        return
    say(f'interpolated in time: {(~seen).sum():,} of the {seen.size:,} keypoints that are used, not seen or under '
        f'--min-score, in {(~seen).any(axis=1).sum():,} of {len(seen):,} frames')
    if elsewhere.any():
        say(f'left out: {elsewhere.sum()} frames in which the best-scored person is somewhere else, such as '
            f'{track.frames[elsewhere][0]}')
    for gap in absences(seen.any(axis=1), max(2, round(ABSENCE * fps))):
        say(f'nobody in frames {track.frames[gap.first]} to {track.frames[gap.last]}, '
            f'{(gap.last - gap.first + 1) / fps:.1f} s: what is written there is a guess')
