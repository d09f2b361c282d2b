"""From a video to the keypoints in it, in a file that --predict takes; and a folder of videos, one after another.

Letters: T frames.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.commands.outputs import check_writable
from common.commands.session import Session, needed
from common.config import Config
from common.config_predict import EVERYBODY
from common.detectors import Detector, open_detector
from common.drawing.video import Film, read_video
from common.errors import DivergedError, FileError, FlagError
from common.keypoints import detected
from common.keypoints.detections import MOST_FRAMES
from common.storage.files import MIB, open_regular, readable
from common.storage.npz import read_npz

EVERY = 10  # seconds between two lines that say how far it is
EVEN = 0.5  # of a frame: times that are off by less come evenly


def keypoints_in(session: Session, video: Path) -> Path:
    """Return the file of the keypoints in a video, beside the output, which is written unless it is there already.

    Raises FileError for a video that cannot be read or shows nobody, FlagError for flags that do not fit.
    """
    config, say = session.config, session.say
    if config.predict.image_size:
        raise FlagError('--image-size is not for a video, which says it itself: leave it out')
    cache = Path(needed(config.predict.npz, '--output')).with_suffix('.keypoints.npz')
    check_writable(str(cache))
    detector = open_detector(config.predict.detector, config.predict.detector_files or (), session.device.type,
                             config.predict.person == EVERYBODY)
    sha256 = _digest(video)
    if cache.exists():
        content = read_npz(cache)
        if detected.is_of(content, detector.name, sha256):
            say(f'{cache}: what {detector.name} saw in {video} before')
            return cache
        if not detected.is_detected(content):
            raise FileError(f'the keypoints in {video} would be written over {cache}, which is something else: choose '
                            f'another --output')
    with read_video(video) as film:
        say(f'{video}: {film.size[0]}×{film.size[1]} pixels, {_many(film)}; looking for people with {detector.name}')
        people = list(_detected(film, detector, f'{video}: ', say))
    if not any(len(frame) for frame in people):
        raise FileError(f'{video}: {detector.name} sees nobody in its {len(people):,} '
                        f'frame{"" if len(people) == 1 else "s"}')
    fps, seconds = rate_of(film.times, film.fps)
    detected.write(cache, people, size=np.array(film.size), fps=fps, seconds=seconds,
                   layout=detector.layout(people[0].shape[1]),
                   detector=detector.name, video=video.name, sha256=sha256)
    return cache


def check_unsaid(config: Config) -> None:
    """Raise FileError where nobody named the output, and something else than what this video became lies there.

    That may be somebody's own keypoints of the video, or what another video of that name became.
    """
    video, output = Path(needed(config.predict.predict, '--predict')), Path(needed(config.predict.npz, '--output'))
    if config.has('predict.npz') or not output.exists():
        return
    try:
        source = str(read_npz(output).get('source', ''))
    except FileError:
        source = ''
    if f': {detected.seen_in(video.name)}' not in source:
        raise FileError(f'{output} is there already and was not made of {video}: move it away, or name another file '
                        f'with --output')


def _detected(film: Film, detector: Detector, start: str, say: Callable[[str], None]) -> Iterator[np.ndarray]:
    """Yield the people (N, K, 3) of each frame, and say now and then, and at the end, how far it is and how fast."""
    began = said = time.perf_counter()
    count = seen = 0
    too_long = FileError(f'{start}it goes on for more than {MOST_FRAMES:,} frames; cut it into parts')
    if (film.total or 0) > MOST_FRAMES:
        raise too_long
    for count, people in enumerate(detector.detect(film.frames), 1):
        seen += bool(len(people))
        now = time.perf_counter()
        if now - said >= EVERY:
            said = now
            say(f'{start}frame {count:,}{f" of {film.total:,}" if film.total else ""}, {count / (now - began):.1f} a '
                f'second')
        if count > MOST_FRAMES:
            raise too_long
        yield people
    took = time.perf_counter() - began
    say(f'{start}somebody in {seen:,} of {count:,} frames; {took:.1f} s, {count / max(took, 1e-9):.1f} frames a second')


def rate_of(times: Iterable[float | None], said: float | None) -> tuple[float | None, np.ndarray | None]:
    """Return frames per second, and the time of each frame (T,) from 0 where they do not come evenly, else None.

    Args:
        times: when each frame is shown, in seconds. said: frames per second as the video says.
    """
    known = [at for at in times if at is not None]
    if len(known) < 2 or None in times or not (np.diff(known) > 0).all():
        return said, None  # nothing can be told of times that are missing or run backwards
    seconds = np.array(known) - known[0]
    mean = (len(known) - 1) / seconds[-1]
    for rate in (said, mean):
        if rate and np.abs(seconds * rate - np.arange(len(known))).max() < EVEN:
            return float(rate), None
    return float(mean), seconds


def _many(film: Film) -> str:
    frames = f'{film.total:,} frames' if film.total else 'frames not counted in it'
    return f'{frames}, {film.fps:.6g} a second' if film.fps else frames


def _digest(video: Path) -> str:
    """Return the SHA-256 of a file. Raises FileError."""
    total = hashlib.sha256()
    with readable(video, 'video'), open_regular(video) as file:
        while part := file.read(MIB):
            total.update(part)
    return total.hexdigest()


def lift_each(session: Session, videos: list[Path], lift: Callable[[Session], None]) -> None:
    """Lift each video of a folder to an npz of its name beside it, those left out whose npz is there.

    Args:
        lift: does it for a session whose flags name one video and its output.

    Raises FileError at the end where some could not be lifted, and FlagError at once for flags of a single video.
    """
    config = session.config
    _check_flags(config)
    outputs = [video.with_suffix('.npz') for video in videos]
    for output in outputs:
        if outputs.count(output) > 1:
            raise FileError(f'several videos would be lifted to {output}: rename all but one of them')
    failed = []
    for number, (video, output) in enumerate(zip(videos, outputs, strict=True), 1):
        start = f'{number} of {len(videos)}, {video}'
        one = replace(config, predict=replace(config.predict, predict=str(video), npz=str(output)))
        try:
            if output.exists():
                check_unsaid(one)
                session.say(f'{start}: {output.name} is there already')
                continue
            session.say(f'{start}:')
            lift(replace(session, config=one))
        except (FileError, FlagError, DivergedError) as error:  # the next may be better
            failed.append(video.name)
            session.say(f'{start}: left out: {error}')
    if failed:
        raise FileError(f'{len(failed)} of {len(videos)} videos were not lifted: {", ".join(failed[:10])}'
                        f'{", …" if len(failed) > 10 else ""}')


def _check_flags(config: Config) -> None:
    """Raise FlagError for a flag that names an output, which each video of a folder would write over."""
    for flag, value in (('--output', config.predict.npz), ('--csv', config.predict.csv),
                        ('--export', config.predict.export), ('--viz-output', config.render.output)):
        if value:
            raise FlagError(f'{flag} is for one video: of a folder, each clip.mp4 gets a clip.npz beside it')
