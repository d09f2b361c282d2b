"""From --predict's file and flags to people's keypoints, ready to be lifted, with all that was done to them said.

Letters: T frames, K keypoints of the file, L of the lifter.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import FileError, FlagError
from common.geometry.camera import normalise, pinhole_intrinsic
from common.keypoints import read_everybody, read_track
from common.keypoints.everybody import Everybody
from common.keypoints.gaps import ABSENCE, STILL, absences, fill, jumps, stills, strays, swaps
from common.keypoints.layouts import conversion, find_layout, stature, usable_keypoints
from common.keypoints.mistakes import refuse_mistakes, refuse_normalised
from common.keypoints.track import Track
from common.skeleton import Skeleton

ASSUMED_FPS = 30.0
# Half-widths of the picture that a person's height takes up in training: through Human3.6M's lenses from 4 to 6 metres,
# where CMU's people have LOW to HIGH for nine tenths of all takes. These stay as they are; from SMALLEST down and
# LARGEST up people are brought to the usual size, and those between go over from one to the other.
USUAL_STATURE, SMALLEST, LOW, HIGH, LARGEST = 0.82, 0.6, 0.72, 0.93, 1.1
# Of people whom the cameras of --views random see. These stay as they are, others are brought to the nearer one.
ANY_SIZE = 0.3, 3.0
PATH = 0.6  # seconds over which the mean of the hips is the path that a person takes: about a step
BRIEF = 0.5  # seconds, or half of a short clip: who is seen in fewer frames is left out where everybody is lifted
FAST = 100.0  # frames a second, twice what lifters are trained at and more
MOST_TOLD = 8  # doubts that are named one by one
ROOM = 0.5  # half-widths to either side that an enlarged path may reach and stay; one of twice as many is left out


@dataclass(frozen=True)
class Clip:
    """One person's keypoints, ready to be lifted.

    Attributes:
        pixels: (T, L, 2) float32 without gaps, in the lifter's layout.
        screen: (T, L, 2) float32, the same in normalised screen coordinates, at the size that lifters are used to.
        zoom, middle: how they came to that size: what lay at screen coordinates `middle` (2,) lies at the centre, and
            distances from it are `zoom` times as large. Where a path is left out, `middle` is that of the median frame.
        seen: (T, L) bool, True where the detector saw the keypoint itself.
        confidence: (T, L) float32, the detector's in each keypoint, 0 to 1; 0 where it saw none.
        present: (T,) bool, True where the detector saw anything of the person.
        frames: (T,) int64, the source's number of each frame. seconds: (T,) float64, when that is in the source.
        size: (width, height) of the picture.
        fps: frames of the clip per second: half of those of the source where only every second one was detected.
        source: the file, its kind and its layout, in words.
        person: the number of the person where everybody is lifted; else None.
    """

    pixels: np.ndarray
    screen: np.ndarray
    zoom: float
    middle: np.ndarray
    seen: np.ndarray
    confidence: np.ndarray
    present: np.ndarray
    frames: np.ndarray
    seconds: np.ndarray
    size: tuple[float, float]
    fps: float
    source: str
    person: int | None = None

    def intrinsic(self, lens: tuple[float, float, float, float]) -> np.ndarray:
        """Return the intrinsic vector (9,) of the lens that sees `screen`, for one of fx, fy, cx, cy in pixels."""
        intrinsic = pinhole_intrinsic(lens[:2], lens[2:], (0, 0, 0), (0, 0), *self.size)
        intrinsic[2:4] -= self.middle
        intrinsic[:4] *= self.zoom
        return intrinsic


@dataclass(frozen=True)
class Asked:
    """The user's own word on the keypoints in a file.

    Attributes:
        path: the file or folder.
        layout: the order of its keypoints, or `auto`.
        size: (width, height) of the picture in pixels, where the file does not say.
        fps: frames per second. person: a number or rank. video: which one, where the file holds several.
        min_score: keypoints with less are interpolated; None for the detector's own threshold.
        zoom: factor that the person is scaled by on the screen; None for the size of people trained on.
        any_size: whether the lifter was trained on people of any size and place in the picture.
        as_is: take keypoints that look like a mistake.
        video_fps, video_size: of the video behind the keypoints, for what neither user nor file say.
    """

    path: str
    layout: str = 'auto'
    size: tuple[float, float] | None = None
    fps: float | None = None
    person: int | None = None
    video: str | None = None
    min_score: float | None = None
    zoom: float | None = None
    any_size: bool = False
    as_is: bool = False
    video_fps: float | None = None
    video_size: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Seen:
    """A track, which of its keypoints count (T, K) bool, and where it is somebody else's for a moment (T,) bool."""

    track: Track
    seen: np.ndarray
    elsewhere: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """Return the keypoints that count (T, K, 2), NaN for all others."""
        return np.where(self.seen[..., None], self.track.points, np.nan)


@dataclass(frozen=True)
class _File:
    """What a file and the flags say of everybody in it: layout, size of the picture, rate and step, and the source."""

    layout: Skeleton
    size: tuple[float, float]
    rate: float
    step: int
    source: str


def load_clip(asked: Asked, wanted: Skeleton, say: Callable[[str], None]) -> Clip:
    """Return the person's keypoints in the layout `wanted`, gaps filled, all that was done to them said.

    Raises FileError for a file that is broken or cannot be a person in pixels, FlagError for flags that do not fit it.
    """
    one = _seen(asked, read_track(Path(asked.path), asked.person, asked.video, asked.size, asked.video_size))
    return _clip(asked, _file(asked, [one], say), one, wanted, say)


def load_clips(asked: Asked, wanted: Skeleton, say: Callable[[str], None]) -> list[Clip]:
    """Return everybody's keypoints, as `load_clip` those of one person; who cannot be lifted is said and left out.

    Raises FileError where that is everybody, too.
    """
    everybody = read_everybody(Path(asked.path), asked.video, asked.size, asked.video_size)
    tracks = _long_enough(asked, everybody, say)
    seen = _able(tracks, [partial(_seen, asked, track) for track in tracks], say)
    file = _file(asked, seen, say)
    clips = _able([one.track for one in seen],
                  [partial(_clip, asked, file, one, wanted, about_person(say, one.track.number)) for one in seen], say)
    _say_mixed_up(everybody, {clip.person for clip in clips}, say)
    return clips


def about_person(say: Callable[[str], None], number: int | None) -> Callable[[str], None]:
    """Return what says lines about one person of many, who has this number."""
    return lambda line: say(f'person {number}: {line}')


def _able(tracks: list[Track], loads: list[Callable[[], Any]], say: Callable[[str], None]) -> list[Any]:
    """Return what can be loaded of each track, and say who is left out. Raises the first FileError if that is all."""
    done, errors = [], []
    for track, load in zip(tracks, loads, strict=True):
        try:
            done.append(load())
        except FileError as error:
            errors.append(error)
            about_person(say, track.number)(f'left out: {error}')
    if not done:
        raise errors[0]
    return done


def _long_enough(asked: Asked, everybody: Everybody, say: Callable[[str], None]) -> list[Track]:
    """Return the tracks that are no shorter than BRIEF, and say how many are."""
    rate, step, _ = _speed(asked, everybody.tracks[0])
    lengths = [int(np.isfinite(track.points).any(axis=(1, 2)).sum()) for track in everybody.tracks]
    least = min(round(BRIEF * rate / step), (max(lengths) + 1) // 2)
    tracks = [track for track, length in zip(everybody.tracks, lengths, strict=True) if length >= least]
    if short := len(lengths) - len(tracks):
        say(f'left out: {short} {"people who are" if short > 1 else "person who is"} seen in fewer than {least} frames')
    return tracks


def _say_mixed_up(everybody: Everybody, people: set[int | None], say: Callable[[str], None]) -> None:
    """Say where people may have been taken for each other: by the file's numbers, or by their poses alone."""
    switches = [switch for switch in everybody.switches if switch.person in people]
    if switches:
        frame, person, old, new = switches[0]
        say(f'identities switched {_times(len(switches))} in the file, where the poses go on with another number, '
            f'first at frame {frame}: person {person} has number {new} there, and {old} before')
    elif everybody.numbered:
        say("identities: the file's numbers and the poses tell the same people apart in every frame")
    crossings = [crossing for crossing in everybody.crossings if {crossing.a, crossing.b} <= people]
    if crossings:
        where = [f'persons {a} and {b} may have changed places at frame {first}{f" to {last}" if last > first else ""}'
                 for first, last, a, b in crossings[:MOST_TOLD]]
        say(f'poses hardly tell who is who {_times(len(crossings))}: {", ".join(where)}'
            f'{", …" if len(crossings) > MOST_TOLD else ""}')
    elif not everybody.numbered and len(people) > 1:
        say('identities: nobody comes so near to somebody else that poses would not tell who is who')


def _times(count: int) -> str:
    return f'{count} time{"" if count == 1 else "s"}'


def _file(asked: Asked, everybody: list[_Seen], say: Callable[[str], None]) -> _File:
    """Return what the keypoints of everybody together tell, and say it. Raises FileError, FlagError."""
    track, shown = everybody[0].track, np.concatenate([one.points for one in everybody])
    layout, how = find_layout(shown, asked.layout, track.layouts, f'{asked.path} ({track.kind})')
    size = asked.size or track.size or asked.video_size
    if size is None:
        refuse_normalised(shown, asked.path)  # which the size of a picture would not help
        raise FlagError(f'{asked.path} does not say how large the picture is: add --image-size WIDTH HEIGHT, in '
                        f'pixels')
    if not asked.as_is:
        refuse_mistakes(shown, layout, size, asked.path)
    rate, step, how_fast = _speed(asked, track)
    source = f'{asked.path}: {track.kind}, layout {layout.name}'
    say(f'{source}, {how}; {len(track):,} frames, numbers {track.frames[0]} to {track.frames[-1]}, {how_fast}, '
        f'{size[0]:g}×{size[1]:g} pixels')
    if rate / step >= FAST:
        say(f'{rate / step:g} poses a second are more than lifters are trained at, 25 to 50: what a window of many '
            f'frames sees is nearly still; fewer frames would do better (ffmpeg -i clip.mp4 -r 50 slower.mp4)')
    return _File(layout, size, rate, step, source)


def _clip(asked: Asked, file: _File, one: _Seen, wanted: Skeleton, say: Callable[[str], None]) -> Clip:
    """Return a track ready to be lifted, and say what was done to it. Raises FileError for one that cannot be."""
    track, seen, layout, size, fps = one.track, one.seen, file.layout, file.size, file.rate / file.step
    say(track.person if track.number is not None else f'person: {track.person}')
    matrix, made = conversion(wanted, layout, usable_keypoints(seen, layout))
    if made:
        say(f'for layout {wanted.name}: ' + '; '.join(f'{name} from {", ".join(of)}' for name, of in made.items()))
    used = matrix.any(axis=0)
    _say_gaps(track, seen[:, used], one.elsewhere, fps, say)
    _say_breaks(track, seen, layout, fps, say)
    pixels = np.einsum('lk,tkc->tlc', matrix[:, used], fill(track.points, seen)[:, used])
    own, scores = seen_themselves(seen, wanted, layout, made), confidence_of(track.scores, seen, matrix)
    tall = stature(normalise(one.points, *size), layout)
    zoom = _zoom(asked, tall, say)
    middle = centre_of(normalise(path_of(pixels, wanted, fps), *size), zoom)
    screen = (zoom * (normalise(pixels, *size) - middle[:, None])).astype(np.float32)
    return Clip(pixels.astype(np.float32), screen, zoom, np.median(middle, axis=0), own, scores.astype(np.float32),
                np.asarray(seen.any(axis=1)), track.frames, _seconds(asked, track, file.rate), size, fps, file.source,
                track.number)


def seen_themselves(seen: np.ndarray, wanted: Skeleton, given: Skeleton, made: Container[str]) -> np.ndarray:
    """Return (T, L) bool: keypoints of `wanted` that the detector itself saw (T, K), and that are not `made`."""
    own = np.zeros((len(seen), len(wanted)), bool)
    for index, name in enumerate(wanted.joints):
        if name in given.joints and name not in made:
            own[:, index] = seen[:, given.joints.index(name)]
    return own


def confidence_of(scores: np.ndarray, seen: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the detector's confidence (T, L) in what a matrix (L, K) makes of keypoints with these scores (T, K)."""
    return np.where(seen, np.clip(scores, 0, 1), 0) @ np.abs(matrix.T) / np.abs(matrix).sum(axis=1)


def _speed(asked: Asked, track: Track) -> tuple[float, int, str]:
    """Return the source's frames per second, the step from one of the track to the next, and both in words."""
    rate = asked.fps or track.fps or asked.video_fps or ASSUMED_FPS
    step = max(1, int(np.median(np.diff(track.frames)))) if len(track) > 1 else 1
    assumed = '' if asked.fps or track.fps else ', as the video' if asked.video_fps else ' (assumed: --fps N)'
    assumed += ' on average, unevenly' if track.seconds is not None and not asked.fps else ''
    every = f', one in {step} of them: {rate / step:g} a second' if step > 1 else ''
    return rate, step, f'at {rate:g} fps{assumed}{every}'


def _seconds(asked: Asked, track: Track, rate: float) -> np.ndarray:
    """Return when each frame is in the source (T,): as the file says, or evenly at `rate` frames per second."""
    return track.frames / rate if track.seconds is None or asked.fps else track.seconds


def _zoom(asked: Asked, tall: float, say: Callable[[str], None]) -> float:
    """Return what a person of this stature, in half-widths of the picture, is scaled by, having said so."""
    zoom = usual_zoom(tall, asked.any_size) if asked.zoom is None else asked.zoom
    if zoom != 1:
        known = 'from {} to {}'.format(*ANY_SIZE) if asked.any_size else f'about {USUAL_STATURE}'
        say(f'the person is {tall:.2f} half-widths of the picture tall; people trained on are {known}: scaled by '
            f'{zoom:.2f} (--zoom 1 leaves them as they are)')
    return zoom


def centre_of(path: np.ndarray, zoom: float) -> np.ndarray:
    """Return the point (T, 2) of the screen that comes to lie at its centre when a person on a path (T, 2) is scaled.

    How far a keypoint is from its neighbours tells a lifter metres, as seen through the lenses and from the distances
    that it was trained with. A reduced person is one in a larger picture with the same centre. An enlarged one would
    leave the picture: the middle of the path moves to that of the picture, and the path is enlarged where there is
    room for it, else left out, so that the person stays in the middle. All of it changes gradually with the zoom.
    """
    middle = np.median(path, axis=0)
    kept = max(0.0, 1 - abs(zoom - 1))
    room = zoom * np.clip(2 - zoom * np.abs(path - middle).max() / ROOM, 0, 1) if zoom > 1 else zoom
    return path - (kept * middle + max(room, kept) * (path - middle)) / zoom


def usual_zoom(tall: float, any_size: bool = False) -> float:
    """Return what brings a person of this stature, in half-widths of the picture, to a size that lifters know.

    Args:
        any_size: whether the lifter was trained on people of any size and place in the picture.
    """
    if not np.isfinite(tall) or tall <= 0:
        return 1.0
    if any_size:
        return float(np.clip(tall, *ANY_SIZE) / tall)
    share = np.interp(tall, (SMALLEST, LOW, HIGH, LARGEST), (1, 0, 0, 1))
    return float((USUAL_STATURE / tall) ** share)


def path_of(pixels: np.ndarray, layout: Skeleton, fps: float) -> np.ndarray:
    """Return where the middle of a person (T, L, 2) is in each frame, (T, 2): a path as smooth as a body's.

    It is the mean of the hips over PATH seconds around each frame, less towards the ends of the clip, with as many
    frames before as after, so that it does not lag; moved by what the median keypoint is off that in the whole clip.
    """
    hips = pixels[:, [layout.joints.index('left_hip'), layout.joints.index('right_hip')]].mean(axis=1)
    frames = np.arange(len(hips))
    half = np.minimum(round(PATH * fps / 2), np.minimum(frames, frames[::-1]))
    total = np.concatenate([np.zeros((1, 2)), np.cumsum(hips, axis=0)])
    path = (total[frames + half + 1] - total[frames - half]) / (2 * half + 1)[:, None]
    return path + np.median(pixels - path[:, None], axis=(0, 1))


def _seen(asked: Asked, track: Track) -> _Seen:
    """Return which keypoints of a track count. Raises FileError where none does."""
    threshold = track.threshold if asked.min_score is None else asked.min_score
    seen = (track.scores > 0) & (track.scores >= threshold)
    if not seen.any():
        raise FileError(f'{asked.path}: no keypoint has a score of {threshold:g} or more' +
                        (': lower --min-score' if (track.scores > 0).any() else ', all are missing'))
    elsewhere = strays(track.points, seen)
    seen[elsewhere] = False
    return _Seen(track, seen, elsewhere)


def _say_gaps(track: Track, seen: np.ndarray, elsewhere: np.ndarray, fps: float, say: Callable[[str], None]) -> None:
    """Say what is interpolated of the keypoints that are used, (T, U) `seen`, and which frames are guesses."""
    if seen.all():
        say(f'each of the {seen.shape[1]} keypoints that are used is there in every frame')
        return
    say(f'interpolated in time: {(~seen).sum():,} of the {seen.size:,} keypoints that are used, not seen or under '
        f'--min-score, in {(~seen).any(axis=1).sum():,} of {len(seen):,} frames')
    if elsewhere.any():
        say(f'left out: {elsewhere.sum()} frames in which the keypoints are somewhere else for a moment, such as '
            f'{track.frames[elsewhere][0]}')
    for gap in absences(np.asarray(seen.any(axis=1)), 1):
        held = gap.first == 0 or gap.last == len(seen) - 1
        if held or gap.last - gap.first + 1 >= max(2, round(ABSENCE * fps)):
            guess = ', the pose held still' if held else ''
            say(f'nobody in frames {track.frames[gap.first]} to {track.frames[gap.last]}, '
                f'{(gap.last - gap.first + 1) / fps:.1f} s: what is written there is a guess{guess}')


def _say_breaks(track: Track, seen: np.ndarray, layout: Skeleton, fps: float, say: Callable[[str], None]) -> None:
    """Say where the person jumps, where left and right change places, and where they are as still as no body is."""
    at = jumps(track.points, seen)
    if len(at):
        say(f'the person jumps by more than their own size {len(at)} time{"s" if len(at) > 1 else ""}, first at frame '
            f'{track.frames[at[0]]}: either the film is cut there, or that is somebody else; give each part by itself')
    swapped = swaps(track.points, seen, layout)
    if len(swapped):
        say(f'left and right change places {len(swapped)} time{"s" if len(swapped) > 1 else ""}, first at frame '
            f'{track.frames[swapped[0]]}: the detector mixes the sides up there, and the poses jump with it')
    frozen = stills(track.points, seen, max(3, round(STILL * fps)))
    if frozen:
        total = sum(run.last - run.first + 1 for run in frozen)
        say(f'nothing moves at all in {total} frames, such as {track.frames[frozen[0].first]} to '
            f'{track.frames[frozen[0].last]}: these keypoints seem to be filled in, not detected')
