"""--predict camera:0, and --live: poses as the pictures come, of a camera or of a video that is played like one.

Letters: T frames that were lifted, L keypoints of the lifter, J joints.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.commands.judging import set_sampling
from common.commands.placing import Lifted
from common.commands.predict import AVERAGE_SIZE, average_size, load_lifter, write
from common.commands.session import Session, needed
from common.commands.videos import rate_of
from common.config import Config, flag_of
from common.detectors import DEFAULT_DETECTOR, Detector, camera_of, is_video, open_detector
from common.drawing.camera import Camera, Picture, running
from common.drawing.video import Film, read_camera, read_video
from common.errors import DivergedError, FileError, FlagError
from common.geometry.placement import feet_on_floor, upright
from common.geometry.smoothing import OneEuro, one_euro_in_words
from common.keypoints.clip import ASSUMED_FPS, Clip
from common.keypoints.known import LAYOUTS
from common.keypoints.stream import HELD, KEPT, Newest, Stream
from common.keypoints.track import Track
from common.models import computing
from common.models.lifting import lift_newest
from common.models.loading import LoadedLifter
from common.skeleton import Skeleton
from common.storage.files import one_line
from common.training.signals import Stopped, StopRequest

if TYPE_CHECKING:
    from common.drawing.window import Window

EVERY = 5  # seconds between two lines on how fast it is
PLACEMENT = ('the camera taken as level, the lower foot of each frame put on the floor; where the person stands is not '
             'estimated')
# Fields whose flags do not fit, and why.
NOT_LIVE = {
    'predict.csv': 'the npz of --output alone is written',
    'predict.export': 'the npz of --output alone is written',
    'predict.layout': 'its keypoints are those of the detector, whose order is known',
    'predict.image_size': 'the pictures say it themselves',
    'predict.fps': 'pictures come when they come',
    'predict.person': 'it follows the most central person',
    'evaluate.overlap': 'each pose comes from the one window that ends at it',
    'predict.trajectory': 'where the person stands is found from a whole clip',
    'predict.upright': 'how the camera stands is found from a whole clip',
    'predict.intrinsics': 'it is for --trajectory and for models that read the lens, which want a clip',
    'predict.fov': 'it is for --trajectory and for models that read the lens, which want a clip',
    'predict.as_is': 'no keypoints are refused',
    'predict.detector_files': 'MoveNet has its own',
    'data.subjects_test': 'there is one video',
    'render.render': 'a window shows it, and a film needs a video without --live',
    'render.output': 'a window shows it, and a film needs a video without --live',
}


class Lift(NamedTuple):
    """What was made of one picture.

    Attributes:
        number, seconds: as those of `Picture`.
        pixels, screen, seen, confidence: (L, …) as those of `Clip`.
        pose: (J, 3) float32, metres in camera axes, relative to the root.
    """

    number: int
    seconds: float
    pixels: np.ndarray
    screen: np.ndarray
    seen: np.ndarray
    confidence: np.ndarray
    pose: np.ndarray


def run_live(session: Session) -> None:
    """Lift the newest picture again and again, show it where there is a screen, and write what was lifted at the end.

    Raises FileError, FlagError, DivergedError, and Stopped where a signal ended it, when all is written.
    """
    config, say = session.config, session.say
    source = needed(config.predict.predict, '--predict')
    _check_flags(config, source)
    camera = camera_of(source)
    with contextlib.ExitStack() as stack:
        film = stack.enter_context(read_video(Path(source)) if camera is None else read_camera(camera))
        lifter = load_lifter(session)
        set_sampling(config, lifter.model)
        computing.set_up(lifter.model, session.device, config.run.compile)
        stack.enter_context(computing.computing_in(lifter.model, computing.evaluation_precision(
            config.run.precision, session.device)))
        detector = open_detector(DEFAULT_DETECTOR, (), session.device.type)
        live = Live(config, lifter, film, LAYOUTS[str(detector.layout(0))], say)
        stop = stack.enter_context(StopRequest())
        window = _window(session, lifter, film)
        if window is not None:
            stack.callback(window.close)
        say(f'{source}: {film.size[0]}×{film.size[1]} pixels{f", {film.fps:.6g} a second" if film.fps else ""}; '
            f'{detector.name} follows one person until Ctrl-C{"" if window is None else ", or the window is closed"}')

        def ended() -> bool:
            if window is not None:
                window.respond()
            return bool(stop.signal) or (window is not None and window.closed)

        pictures = stack.enter_context(running(film, paced=camera is None))
        try:
            for picture, person in _people(detector, pictures.pictures(ended)):
                lift = live.lift(picture, person)
                live.pace.tell(pictures)
                if window is not None:
                    world = None if lift is None else _world(lift.pose[None], lifter)[0]
                    window.show(picture.image, picture.number, None if lift is None else lift.pixels, world)
        except (FileError, DivergedError):
            if live.lifts:  # of a camera that was taken away, say
                _write(session, live)
            raise
        say(f'the end: {live.pace.told(pictures.dropped)}')
        _write(session, live)  # while the camera still runs: one that hangs cannot take with it what was lifted
    if stop.signal:
        raise Stopped(stop.signal, f'{config.predict.npz} holds what was lifted' if config.predict.npz else
                      'nothing was to be written (--output)')


def _check_flags(config: Config, source: str) -> None:
    """Raise FlagError for what cannot be played, and for flags that would be ignored."""
    if camera_of(source) is None and not is_video(Path(source)):
        raise FlagError(f'--live plays a video as a camera would, and {source} is none: leave it out')
    asked = '--live' if config.predict.live else f'--predict {source}'
    for name, why in NOT_LIVE.items():
        if config.has(name):
            raise FlagError(f'{flag_of(*name.split(".")).name} is not for {asked}: {why}; leave it out')
    if config.predict.detector != DEFAULT_DETECTOR:
        raise FlagError(f'--detector {config.predict.detector} is not for {asked}: MoveNet follows one person; leave '
                        f'it out')


class Live:
    """From a person in a picture to a pose, with what is known from the pictures before.

    Attributes:
        scale, smoothing: as those of `Lifted`. zoom: by how much the person was scaled last.
        lifts: what was made of the pictures with somebody, where it is to be written. pace: how fast.
    """

    def __init__(self, config: Config, lifter: LoadedLifter, film: Film, layout: Skeleton, say: Callable[[str], None]):
        """Begin before the first picture of a film, in which keypoints of `layout` are found; say what will be done."""
        asked, model = config.predict, lifter.model
        self.lifter, self.kept, self.film = lifter, bool(asked.npz), film
        self.flip, self.root = lifter.settings['flip'], lifter.settings['root']
        self.stream = Stream(lifter.layout, layout, film.size, (model.frames - 1) * model.spacing + 1, asked.zoom,
                             Track.threshold if asked.min_score is None else asked.min_score,
                             any_size=lifter.any_size)
        self.lifts: list[Lift] = []
        self.pace, self._say = Pace(say), say
        self._smooth = asked.smooth
        self._begin()
        self.zoom = 1.0
        self.scale = AVERAGE_SIZE.replace('the whole clip', f'each pose, with those of {KEPT:g} seconds before it,') \
            if lifter.in_the_picture else ''
        self.smoothing = '' if asked.smooth is None else one_euro_in_words(asked.smooth)
        self._say_what_is_done()

    def _say_what_is_done(self) -> None:
        """Say what is done to keypoints and poses. Raises FileError for a model that cannot be used so."""
        lifter, model, made = self.lifter, self.lifter.model, self.stream.made
        if 'intrinsic' in model.needs:
            raise FileError(f'{lifter.path} reads the lens of the camera, which is not told live: take another model, '
                            f'or lift a video')
        if made:
            self._say(f'for layout {lifter.layout.name}: ' +
                      '; '.join(f'{name} from {", ".join(of)}' for name, of in made.items()))
        if model.answers.stop < model.frames:
            self._say(f'{model.title} answers for frame {model.answers.stop} of the {model.frames} that it reads: the '
                      f'newest one is repeated in place of those still to come, which costs accuracy')
        for done in (self.scale, self.smoothing and f'smoothed: {self.smoothing}'):
            if done:
                self._say(done)

    def _begin(self) -> None:
        """Forget what was lifted of who was there before."""
        self._poses: deque[tuple[float, np.ndarray]] = deque()
        self._euro = None if self._smooth is None else OneEuro(self._smooth)

    def lift(self, picture: Picture, person: np.ndarray | None) -> Lift | None:
        """Return what is made of a picture and of the person (K, 3) in it; None where nobody is.

        Raises DivergedError for poses that are not finite.
        """
        if self._poses and picture.seconds - self._poses[-1][0] > HELD:
            self._begin()
        newest = self.stream.add(person, picture.seconds)
        lift = None
        if newest is not None:
            if self.zoom == 1 and newest.zoom != 1:
                self._say(f'the person is scaled by {newest.zoom:.2f} to the size of those trained on; from here on by '
                          f'what the last {KEPT:g} seconds show (--zoom 1 leaves them as they are)')
            self.zoom = newest.zoom
            lift = Lift(picture.number, picture.seconds, newest.pixels, newest.screen[-1], newest.seen,
                        newest.confidence[-1], self._pose(newest, picture.seconds))
        self.pace.add(picture, lift is not None)
        if lift is not None and self.kept:
            self.lifts.append(lift)
        return lift

    def _pose(self, newest: Newest, seconds: float) -> np.ndarray:
        """Return the pose (J, 3) float32, metres in camera axes, relative to the root."""
        pose = lift_newest(self.lifter, newest.screen, newest.confidence, self.root, self.flip)
        if not np.isfinite(pose).all():
            raise DivergedError(f'{self.lifter.path} predicts NaN or infinite coordinates: its weights diverged')
        pose = pose - pose[self.lifter.skeleton.root]
        passed = seconds - self._poses[-1][0] if self._poses else 1.0
        self._poses.append((seconds, pose))
        while seconds - self._poses[0][0] > KEPT:
            self._poses.popleft()
        if self.lifter.in_the_picture:
            pose = average_size(np.array([one for _, one in self._poses]), self.lifter) * pose
        return pose if self._euro is None else self._euro(pose, passed).astype(np.float32)


class Pace:
    """How fast poses come: over the last seconds, and over all of the time."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._began = self._since = time.perf_counter()
        self._latencies: list[float] = []
        self._told = self._dropped_before = self._poses = 0

    def add(self, picture: Picture, somebody: bool) -> None:
        """Count a picture that is done with."""
        now = time.perf_counter()
        if not self._latencies:
            self._began = self._since = picture.arrived
        self._latencies.append(now - picture.arrived)
        self._poses += somebody

    def tell(self, camera: Camera) -> None:
        """Say how fast it was, where that was not said for EVERY seconds."""
        now = time.perf_counter()
        if now - self._since >= EVERY:
            dropped = camera.dropped
            self._say(_in_words(self._latencies[self._told:], now - self._since, dropped - self._dropped_before))
            self._since, self._told, self._dropped_before = now, len(self._latencies), dropped

    def told(self, dropped: int) -> str:
        """Return how fast it was from the beginning on, in words."""
        took = time.perf_counter() - self._began
        return f'{_in_words(self._latencies, took, dropped)}; somebody in {self._poses:,} of {len(self._latencies):,}'


def _in_words(latencies: list[float], took: float, dropped: int) -> str:
    if not latencies:
        return f'no picture in {took:.1f} s'
    median, slow = 1000 * np.percentile(latencies, [50, 95])
    return (f'{len(latencies) / took:.1f} frames a second; latency from a picture to its pose: median {median:.0f} ms, '
            f'95 % below {slow:.0f} ms; {dropped:,} of {len(latencies) + dropped:,} pictures dropped')


def _people(detector: Detector, pictures: Iterator[Picture]) -> Iterator[tuple[Picture, np.ndarray | None]]:
    """Yield each picture with the person (K, 3) that the detector of one person sees in it, or None."""
    taken: list[Picture] = []

    def images() -> Iterator[np.ndarray]:
        for picture in pictures:
            taken.append(picture)
            yield picture.image

    for people in detector.detect(images()):
        yield taken.pop(), people[0] if len(people) else None


def _world(poses: np.ndarray, lifter: LoadedLifter) -> np.ndarray:
    """Return poses (T, J, 3) in camera axes with z up and the feet on the floor."""
    return feet_on_floor(upright(poses), lifter.skeleton.feet)


def _window(session: Session, lifter: LoadedLifter, film: Film) -> 'Window | None':
    """Return the window, where there is a screen; else say that there is none."""
    from common.drawing.window import Window, screen_backend  # matplotlib takes a second to import
    if screen_backend() is None:
        session.say('no window: matplotlib finds no screen here, or neither Tk nor Qt to open one with')
        return None
    from common.commands.render import ASIDE, LEVEL, azimuth_of
    title = one_line(needed(session.config.predict.predict, '--predict'), 100)
    return Window(lifter.skeleton, lifter.layout, film.size, title, azimuth_of(LEVEL) + ASIDE)


def _write(session: Session, live: Live) -> None:
    """Write the file of --output, if there is one. Raises FileError where nobody was seen."""
    config, lifter, lifts, film = session.config, live.lifter, live.lifts, live.film
    if not config.predict.npz:
        return
    if not lifts:
        raise FileError(f'{config.predict.predict}: nobody was seen; {config.predict.npz} is not written')
    number, seconds, pixels, screen, seen, confidence, poses = (np.array(part) for part in zip(*lifts, strict=True))
    fps = rate_of(seconds.tolist(), film.fps)[0] or ASSUMED_FPS
    clip = Clip(pixels, screen, live.zoom, np.zeros(2), seen, confidence, np.ones(len(lifts), bool), number, seconds,
                film.size, fps, f'{config.predict.predict}, live, layout {live.stream.given.name}')
    write(Lifted(clip, lifter.skeleton, lifter.layout, poses, _world(poses, lifter), PLACEMENT, None, scale=live.scale,
                 smoothing=live.smoothing), lifter, config)
    session.say(f'{config.predict.npz}: {len(poses):,} frames, {poses.shape[1]} joints')
