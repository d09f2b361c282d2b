"""Poses in the picture, in the pickle of MotionBERT and MotionAGFormer, as they come from LCN.

Each frame's target is what a pinhole camera sees of the joints, (u, v) in pixels, with a depth in pixels too: z =
ρ·(Z − Z_root), where ρ pixels are a millimetre at the depth of the root. So it has no size. The test frames tell the
factor from their pixels to millimetres, about 1/ρ, which comes from the root's true depth.

The file is {train: …, test: …} with `joint_2d`, `confidence`, `joint3d_image`, `camera_name` and `source`, and of the
test `action`, `2.5d_factor` and `joints_2.5d_image` besides. Frames of one source and camera that follow one another
are a sequence. data/prepare_data_motion3d.py makes such a file. Source: Zhu et al., "MotionBERT", ICCV 2023; Ci et al.,
"Optimizing Network Structure for 3D Human Pose Estimation", ICCV 2019 (LCN).

Letters: N frames of one side of the split, T frames of a sequence.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.datasets.poses import MOST_METRES, MOST_PIXELS, Count, PoseDataset, check_numbers, frames_kept
from common.errors import FileError, FlagError
from common.geometry.camera import Camera, normalise, pinhole_intrinsic
from common.keypoints.bones import LIMBS_OF_A_PERSON, length_of_limbs
from common.sequences import Body, Sequence
from common.skeleton import H36M, Skeleton
from common.storage.files import shown
from common.storage.npz import read_pickle

PUBLISHED = 'h36m_sh_conf_cam_source_final'  # the name of the published file, which is the usual -k
FPS = 50
# Human3.6M's cameras and the size of their pictures. Other names are taken to have pictures of 1000 x 1000.
SIZES = {'54138969': (1000, 1002), '55011271': (1000, 1000), '58860488': (1000, 1000), '60457274': (1000, 1002)}
SIZE = (1000, 1000)
# Of Human3.6M's numbers of actions, from 2 on. Where the file names actions, as it does for the test, that counts.
ACTIONS = ('Directions', 'Discussion', 'Eating', 'Greeting', 'Phoning', 'Posing', 'Purchases', 'Sitting', 'SittingDown',
           'Smoking', 'Photo', 'Waiting', 'Walking', 'WalkDog', 'WalkTogether')
# Takes of S9 whose 3D drifted away from the person: the published test leaves them out.
DRIFTED = ('s_09_act_05_subact_02', 's_09_act_10_subact_02', 's_09_act_13_subact_01')
FOCAL = 1147.0  # pixels, about that of all four lenses; the file tells none
FRAMES = {'training': 1_559_752, 'test': 566_920}  # of the published file
IDENTITY = np.array([1, 0, 0, 0], np.float32)
SOURCE = re.compile(r's_(.+?)_act_(.+?)_subact_(.*)_ca_(\w+)')


class View(NamedTuple):
    """One sequence: a take as one camera saw it.

    Attributes:
        camera: its index among the cameras of the data set.
        keypoints: (T, 17, 2) float32 pixels. confidence: (T, 17) float32; None where the file tells none.
        image: (T, 17, 3) float32 pixels: the target.
        factor: (T,) float32 millimetres to a pixel of the target; None where the file tells none.
        metres: (T, 17, 3) float32, relative to the root: what predictions are judged by; None likewise.
    """

    camera: int
    keypoints: np.ndarray
    confidence: np.ndarray | None
    image: np.ndarray
    factor: np.ndarray | None
    metres: np.ndarray | None


@dataclass(frozen=True)
class PictureDataset(PoseDataset):
    """A data set whose targets are poses in the picture; see `Sequence.units`.

    Attributes:
        views: subject -> take -> its views, as many as there are in `positions` and `detections`.
    """

    views: dict[str, dict[str, list[View]]] = field(default_factory=dict)

    def flattened(self) -> PoseDataset:
        """Raise FlagError: the test of this data set is one of poses."""
        raise FlagError(f'{self.name} has no test of keypoints: take another data set')

    def without(self, joint: str, body: Skeleton, replacing: Skeleton) -> PoseDataset:
        """Return the data set without a joint of its body, as `PoseDataset.without`."""
        kept = [index for index, name in enumerate(replacing.joints) if name != joint]

        def cut(array: Any) -> Any:
            return None if array is None else array[:, kept]
        views = {subject: {take: [v._replace(keypoints=cut(v.keypoints), confidence=cut(v.confidence),
                                             image=cut(v.image), metres=cut(v.metres)) for v in of_take]
                           for take, of_take in takes.items()} for subject, takes in self.views.items()}
        positions, detections = _trees(views)
        return replace(self, skeleton=body, layout=body, views=views, positions=positions, detections=detections)

    def bodies(self, subject: str, take: str, rows: np.ndarray) -> Iterator[Body]:
        """Yield these frames of a take as each camera sees them, placed where a usual lens sees their targets.

        Where the file tells no factor, each frame's is that of a person of average size.
        """
        for view in self.views[subject][take]:
            here = rows[rows < len(view.image)]
            image, pixels = view.image[here].astype(np.float64), view.keypoints[here]
            if not (np.isfinite(image).all() and np.isfinite(pixels).all() and len(here)):
                continue
            camera = self.cameras[subject][view.camera]
            centre = np.array([camera.width, camera.height]) / 2
            pinhole = pinhole_intrinsic((FOCAL, FOCAL), centre, (0, 0, 0), (0, 0), camera.width, camera.height)
            if view.factor is None:
                scale = LIMBS_OF_A_PERSON / np.maximum(length_of_limbs(image, self.skeleton), 1e-6)
            else:
                scale = view.factor[here].astype(np.float64) / 1000
            depth = scale[:, None] * (FOCAL + image[..., 2] - image[:, self.skeleton.root, None, 2])
            joints = np.stack([*np.moveaxis((image[..., :2] - centre) / FOCAL, -1, 0) * depth, depth], axis=-1)
            yield Body(view.camera, replace(camera, intrinsic=pinhole), joints.astype(np.float32), pixels)

    def _sequences_of_take(self, subject: str, take: str, downsample: int, subset: float) -> Iterator[Sequence]:
        """Yield the views of a take. Raises FileError for numbers that are not finite, or no pixels."""
        for view in self.views[subject][take]:
            where = f'{subject} {take} camera {view.camera}'
            for values in (view.keypoints, view.image):
                check_numbers(self.source_2d, where, values, self.skeleton, MOST_PIXELS)
            if view.metres is not None:
                check_numbers(self.source_3d, where, view.metres, self.skeleton, MOST_METRES)
            kept = frames_kept(len(view.image), downsample, subset)
            camera = self.cameras[subject][view.camera]
            target = normalised(view.image[kept], camera.width, camera.height)
            yield Sequence(
                subject, take, view.camera, normalise(view.keypoints[kept], camera.width, camera.height),
                target - target[:, self.skeleton.root, None],
                confidence=None if view.confidence is None else np.nan_to_num(view.confidence[kept]),
                units=None if view.factor is None else metres_of_a_unit(view.factor[kept], camera.width),
                metres=None if view.metres is None else view.metres[kept])


def normalised(image: np.ndarray, width: float, height: float) -> np.ndarray:
    """Return poses in the picture (..., 3) in pixels in normalised units: 2x/W − 1, 2y/W − h/W, 2z/W."""
    depth = image[..., 2:] * np.asarray(2 / width, image.dtype)
    return np.concatenate([normalise(image[..., :2], width, height), depth], axis=-1)


def metres_of_a_unit(factor: np.ndarray, width: float) -> np.ndarray:
    """Return how many metres a normalised unit is, where so many millimetres are a pixel."""
    return factor * np.asarray(width / 2000, factor.dtype)


def path_of(folder: Path, keypoints: str) -> Path:
    """Return the path of the file that -k names: as it is published, or as our converter writes it."""
    return folder / f'{keypoints}.pkl'


def load(folder: Path, keypoints: str) -> PoseDataset:
    """Read `<keypoints>.pkl` of a folder.

    Raises FileError for a file that is missing, broken or of another form.
    """
    path = path_of(folder, keypoints)
    content = read_pickle(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(side), dict) for side in ('train', 'test')):
        raise FileError(f'{path} is not a dict with train and test: expected the form of {PUBLISHED}.pkl')
    cameras: dict[str, int] = {name: index for index, name in enumerate(SIZES)}
    train, test = (_side(path, side, content[side], cameras) for side in ('train', 'test'))
    for subject in train.keys() & test.keys():
        if not _same(train[subject], test[subject]):
            raise FileError(f'{path}: {shown(subject)} is in train and in test, with other frames: give the two sides '
                            f'subjects of their own')
    views = train | test
    drifted = [take for take in DRIFTED if any(source.startswith(take) for source in _sources(content['test']))]
    sizes = [SIZES.get(name, SIZE) for name in cameras]
    lenses = [Camera(IDENTITY, np.zeros(3, np.float32), *size) for size in sizes]
    positions, detections = _trees(views)
    return PictureDataset(
        name='motion3d', keypoints=keypoints, skeleton=H36M, layout=H36M, fps=FPS, positions=positions,
        detections=detections, cameras=dict.fromkeys(views, lenses), subjects_train=tuple(train),
        subjects_test=tuple(test), source_3d=str(path), source_2d=str(path), views=views, upright=False,
        left_out=f'{", ".join(drifted)}, whose 3D drifted, as in the published test' if drifted else '')


def counts(dataset: PoseDataset) -> list[Count]:
    """Count the frames of both sides of the published file; nothing of another one."""
    if dataset.keypoints != PUBLISHED or not isinstance(dataset, PictureDataset):
        return []
    sides = {'training': dataset.subjects_train, 'test': dataset.subjects_test}
    # What is left out of the test is not here to be counted.
    return [Count(f'frames of {side}', sum(len(view.image) for subject in subjects
                                           for views in dataset.views[subject].values() for view in views),
                  FRAMES[side], at_most=side == 'test') for side, subjects in sides.items()]


def _trees(views: dict[str, dict[str, list[View]]]) -> tuple[dict, dict]:
    """Return views as `PoseDataset` has them: positions, which here are the first camera's targets, and detections."""
    return ({subject: {take: of_take[0].image for take, of_take in takes.items()} for subject, takes in views.items()},
            {subject: {take: [view.keypoints for view in of_take] for take, of_take in takes.items()}
             for subject, takes in views.items()})


# ---- one side of the split --------------------------------------------------------------------------------------


def _side(path: Path, side: str, data: dict, cameras: dict[str, int]) -> dict[str, dict[str, list[View]]]:
    """Return subject -> take -> views of one side of the split, adding cameras that are not known. Raises FileError."""
    where = f'{path}: {side}'
    if 'joint_2d' not in data or 'joint3d_image' not in data:
        raise FileError(f'{where} has no {"joint_2d" if "joint_2d" not in data else "joint3d_image"}')
    keypoints = _numbers(where, data, 'joint_2d', (17, 2))
    count = len(keypoints)
    image = _numbers(where, data, 'joint3d_image', (17, 3), count)
    confidence, factor, metres = _confidence(where, data, count), None, None
    if side == 'test' or '2.5d_factor' in data:
        factor = _numbers(where, data, '2.5d_factor', (), count)
        if not (np.isfinite(factor) & (factor > 0)).all():
            raise FileError(f'{where} 2.5d_factor holds a number that is not above 0')
        metres = _metres(where, data, image, factor)
    sources, names = _texts(where, data, 'source', count), _texts(where, data, 'camera_name', count)
    actions = _texts(where, data, 'action', count) if 'action' in data else None
    found: dict[str, dict[str, list[View]]] = {}
    for begin, end in _runs(sources, names):
        if sources[begin].startswith(DRIFTED):
            continue
        subject, take = _named(where, sources[begin], None if actions is None else actions[begin])
        camera = cameras.setdefault(names[begin], len(cameras))
        rows = slice(begin, end)
        found.setdefault(subject, {}).setdefault(take, []).append(View(
            camera, keypoints[rows], None if confidence is None else confidence[rows], image[rows],
            None if factor is None else factor[rows], None if metres is None else metres[rows]))
    return found


def _same(one: dict[str, list[View]], other: dict[str, list[View]]) -> bool:
    """Return whether a subject has the same frames on both sides, as the only subject of a file may."""
    return one.keys() == other.keys() and all(
        len(views) == len(other[take]) and all(np.array_equal(a.image, b.image) for a, b in
                                               zip(views, other[take], strict=True))
        for take, views in one.items())


def _sources(data: dict) -> list[str]:
    """Return the different sources of a side that was read."""
    return [source for source in dict.fromkeys(data['source']) if isinstance(source, str)]


def _runs(sources: list[str], cameras: list[str]) -> Iterator[tuple[int, int]]:
    """Yield where each sequence begins and ends: a run of frames of one source and one camera."""
    begin = 0
    for frame in range(1, len(sources) + 1):
        if frame == len(sources) or sources[frame] != sources[begin] or cameras[frame] != cameras[begin]:
            yield begin, frame
            begin = frame


def _named(where: str, source: str, action: str | None) -> tuple[str, str]:
    """Return the subject and take that a source is of, such as s_09_act_05_subact_02_ca_01. Raises FileError."""
    match = SOURCE.fullmatch(source)
    if match is None or not source.isprintable() or ' ' in source:
        raise FileError(f'{where} has the source {shown(source)}, expected one like s_09_act_05_subact_02_ca_01')
    subject, number, take, _ = match.groups()
    if number.isdecimal():  # as published
        known = 2 <= int(number) < 2 + len(ACTIONS)
        number = ACTIONS[int(number) - 2] if known else number
        subject, take = f'S{subject.lstrip("0")}', take.lstrip('0')
    if action is not None and not action.isdecimal():
        number = ''.join(action.split())
    if not number.isprintable() or not number:
        raise FileError(f'{where} has the action {shown(action)}')
    return subject, f'{number} {take}'.rstrip()


def _metres(where: str, data: dict, image: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return the truth (N, 17, 3) in metres relative to the root: that of the file, or its target times its factor."""
    if 'joints_2.5d_image' in data:
        scaled = _numbers(where, data, 'joints_2.5d_image', (17, 3), len(factor))
    else:
        scaled = image * factor[:, None, None]
    return (scaled - scaled[:, H36M.root, None]) / np.float32(1000)


def _confidence(where: str, data: dict, count: int) -> np.ndarray | None:
    """Return the detector's confidence (N, 17); None where the file tells none. Raises FileError."""
    if data.get('confidence') is None:
        return None
    column = data['confidence']
    if isinstance(column, np.ndarray) and column.ndim == 3 and column.shape[2] == 1:
        column = column[..., 0]
    return _numbers(where, {'confidence': column}, 'confidence', (17,), count)


def _numbers(where: str, data: dict, name: str, shape: tuple[int, ...], count: int | None = None) -> np.ndarray:
    """Return the numbers called `name`, (N, *shape) float32. Raises FileError for anything else."""
    if name not in data:
        raise FileError(f'{where} has no {name}')
    values = data[name]
    if isinstance(values, list) and not shape:
        values = np.array([v if isinstance(v, (int, float, np.number)) else np.nan for v in values])
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] == 1 and not shape:
        values = values[:, 0]
    there = values.shape if isinstance(values, np.ndarray) else type(values).__name__
    if not isinstance(values, np.ndarray) or values.dtype.kind not in 'fiu' or values.ndim != 1 + len(shape) or \
            values.shape[1:] != shape or not len(values) or count not in (None, len(values)):
        expected = ', '.join(map(str, (count or 'frames', *shape)))
        raise FileError(f'{where} {name} is {there}, expected ({expected}{"," * (not shape)}) numbers')
    with np.errstate(over='ignore'):  # what does not fit becomes infinite, and is refused where it is selected
        return values.astype(np.float32, copy=False)


def _texts(where: str, data: dict, name: str, count: int) -> list[str]:
    """Return the words called `name`, one a frame; whole numbers count as words. Raises FileError."""
    values = data.get(name)
    if isinstance(values, np.ndarray) and values.ndim == 1:
        values = values.tolist()
    if not isinstance(values, (list, tuple)) or len(values) != count:
        there = f'of {len(values)}' if isinstance(values, (list, tuple)) else type(values).__name__
        raise FileError(f'{where} {name} is {"not there" if values is None else there}, expected a text for each of '
                        f'its {count:,} frames')
    kinds = set(map(type, values))
    if kinds == {str}:
        return list(values)
    if kinds - {str, int}:
        raise FileError(f'{where} {name} holds {shown(next(v for v in values if type(v) not in (str, int)))}, expected '
                        f'text')
    return [str(value) for value in values]
