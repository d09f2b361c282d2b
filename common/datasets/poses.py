"""The form of a data set: 3D positions, 2D keypoints, cameras, and the sequences they make.

Letters: T frames of a sequence, J joints of the skeleton, K keypoints of the layout.
"""

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from common.errors import FileError, FlagError
from common.geometry.camera import Camera, normalise
from common.sequences import Body, Sequence
from common.skeleton import COCO, H36M, H36M16, MPII, SKELETONS, Skeleton
from common.storage.files import shown
from common.storage.npz import read_npz

# (metadata of a 2D file, number of its keypoints) -> their layout; raises ValueError where there is none.
LayoutRule: TypeAlias = Callable[[dict, int], Skeleton]
# How many times as long as the 3D its 2D may be: a tail is cut, other frame rates are refused.
LONGER = 1.5
# Further from the origin, in metres or pixels, lies nobody: such numbers mark what is missing, or are damaged.
MOST_METRES, MOST_PIXELS = 1e5, 1e7
LONGEST_NAME = 200  # of a subject or take
MOCAP_JOINTS = 32  # of Human3.6M, of which H36M's 17 are taken


@dataclass(frozen=True)
class PoseDataset:
    """A data set as its files hold it. Reading checks the form; `sequences` checks what is selected.

    Attributes:
        name, keypoints: what -d and -k call the data set and its 2D file.
        skeleton, layout: the joints of the 3D poses and those of the 2D keypoints.
        fps, rates: frames per second, None where nothing tells; subject -> action -> that of takes with another one.
        positions: subject -> action -> (T, J, 3) float32 world positions, metres.
        detections: subject -> action -> one (T', K, 2) float32 array of pixels per camera, T' >= T; (T', K, 3) where
            the file tells the detector's confidence.
        cameras: subject -> its cameras, in the order of the detections.
        subjects_train, subjects_test: the split used where the command line names none.
        source_3d, source_2d: what error messages call the two sides.
        marks: subject -> action -> (T,) int64, for takes of which not all frames count: 0 for those that do not, else
            the number of an activity, or -1.
        unlabeled: further detections, of subjects without 3D: they can be drawn and trained on beside others that have
            it, not tested on.
        left_out: what of the files is not here, in words; empty where all is.
        flat: whether the poses of its sequences are their keypoints at depth 0, and not the 3D.
        upright: whether z is up in its world.
        anew: (subject, take, kept positions) -> its sequences as other cameras see it (`virtual_views.py`), if any do.
    """

    name: str
    keypoints: str
    skeleton: Skeleton
    layout: Skeleton
    fps: float | None
    positions: dict
    detections: dict
    cameras: dict[str, list[Camera]]
    subjects_train: tuple[str, ...]
    subjects_test: tuple[str, ...]
    source_3d: str
    source_2d: str
    rates: dict[str, dict[str, float]] = field(default_factory=dict)
    marks: dict = field(default_factory=dict)
    unlabeled: dict = field(default_factory=dict)
    left_out: str = ''
    flat: bool = False
    upright: bool = True
    anew: Callable[[str, str, np.ndarray], list[Sequence]] | None = None

    def flattened(self) -> 'PoseDataset':
        """Return the data set with its keypoints, at depth 0, in place of its poses."""
        return replace(self, skeleton=self.layout, flat=True)

    def without(self, joint: str, body: Skeleton, replacing: Skeleton) -> 'PoseDataset':
        """Return the data set without a joint of its body, in its poses and, where it is theirs, its keypoints.

        Args:
            body: what `replacing` is without the joint.
        """
        kept = [index for index, name in enumerate(replacing.joints) if name != joint]
        both = self.layout == replacing
        detections, unlabeled = (
            {subject: {take: [view[:, kept] for view in views] for take, views in takes.items()}
             for subject, takes in side.items()} if both else side for side in (self.detections, self.unlabeled))
        positions = {subject: {take: array[:, kept] for take, array in takes.items()}
                     for subject, takes in self.positions.items()}
        return replace(self, skeleton=body, layout=body if both else self.layout, positions=positions,
                       detections=detections, unlabeled=unlabeled)

    def sequences(self, subjects: Ordered[str], actions: Ordered[str] | None = None, downsample: int = 1,
                  subset: float = 1.0) -> list[Sequence]:
        """Return the selected sequences, in the order subject (as given) -> action (as in the 2D file) -> camera.

        Args:
            subjects: names of subjects.
            actions: action names or unambiguous prefixes of one; None for all.
            downsample: keep every n-th frame.
            subset: fraction of each take to keep, one stretch from its middle.

        Raises:
            FlagError: an unknown subject or action, or a selection without a sequence.
            FileError: the two sides do not fit each other.
        """
        for subject in subjects:
            self._check_subject(subject)
        groups = self._action_groups(actions)
        takes = [(subject, action) for subject in subjects for action in self._takes(subject, groups)]
        for group in groups if actions is not None else ():
            if not any(action_name(take) == group for _, take in takes):
                raise FlagError(f'subjects {",".join(subjects)} of {self.name} have no take of action {group}')
        if not takes:
            raise FlagError(f'subjects {",".join(subjects)} of {self.name} have no sequences')
        return [sequence for take in takes for sequence in self._sequences_of_take(*take, downsample, subset)]

    def view(self, subject: str, take: str, camera: int, downsample: int = 1) -> Sequence:
        """Return one take of the 2D file as one camera sees it, whether or not there is 3D of it.

        Raises FileError where the two sides do not fit each other, or the keypoints are not finite.
        """
        if subject not in self.cameras:
            raise FileError(f'{self.name} has no cameras for subject {subject}')
        if take in self.positions.get(subject, ()):
            return list(self._sequences_of_take(subject, take, downsample, 1.0))[camera]
        return self._seen(subject, take, camera, downsample)

    def bodies(self, subject: str, take: str, rows: np.ndarray) -> Iterator[Body]:
        """Yield these frames of a take as each camera sees them, where 3D and 2D are there and finite."""
        motion = self.positions[subject][take]
        tracks = self.detections.get(subject, {}).get(take, ())
        for index, (camera, track) in enumerate(zip(self.cameras.get(subject, ()), tracks, strict=False)):
            if len(track) >= len(motion) and np.isfinite(motion[rows]).all() and np.isfinite(track[rows, :, :2]).all():
                yield Body(index, camera, camera.from_world(motion[rows]), track[rows, :, :2])

    def unlabelled(self, subjects: Ordered[str], actions: Ordered[str] | None = None,
                   downsample: int = 1) -> list[Sequence]:
        """Return the 2D alone of the selected takes, in the order of `sequences`. 3D of them is not looked at.

        Args:
            subjects: those with 3D or without. actions, downsample: as `sequences` takes them.

        Raises FlagError for an unknown subject or action and for a subject without a take, FileError for 2D that does
        not fit the cameras or is not finite.
        """
        groups = None if actions is None else self._action_groups(actions)
        found = []
        for subject in subjects:
            seen = self.detections.get(subject) or self.unlabeled.get(subject)
            if not seen:
                raise FlagError(f'{self.source_2d} has no subject {subject}; there are '
                                f'{", ".join([*self.detections, *self.unlabeled])}')
            if subject not in self.cameras:
                raise FileError(f'{self.name} has no cameras for subject {subject}')
            takes = [take for take in seen if groups is None or action_name(take) in groups]
            if not takes:
                raise FlagError(f'subject {subject} of {self.name} has no take of actions {",".join(actions or ())}')
            for take in takes:
                self._check_views(subject, take, seen[take])
                found += [self._seen(subject, take, camera, downsample) for camera in range(len(seen[take]))]
        return found

    def _seen(self, subject: str, take: str, camera: int, downsample: int) -> Sequence:
        """Return the 2D of a take as one camera sees it. Raises FileError where it is not finite."""
        views = self.detections.get(subject) or self.unlabeled[subject]
        pixels, seen_by = views[take][camera], self.cameras[subject][camera]
        check_numbers(self.source_2d, f'{subject} {take} camera {camera}', pixels[..., :2], self.layout, MOST_PIXELS)
        keypoints, confidence = _on_screen(pixels[::downsample], seen_by)
        return Sequence(subject, take, camera, keypoints, None, intrinsic=seen_by.intrinsic, confidence=confidence)

    def _check_subject(self, subject: str) -> None:
        sides = {self.source_3d: self.positions, self.source_2d: self.detections}
        having = [source for source, side in sides.items() if subject in side]
        if not having:
            raise FlagError(f'unknown subject {subject} of {self.name}; there are {", ".join(self.positions)}')
        for source in sides:
            if source not in having:
                raise FileError(f'{source} has no subject {subject}, but {having[0]} has: choose other subjects with '
                                f'-str and -ste or complete the file')
        if subject not in self.cameras:
            raise FileError(f'{self.name} has no cameras for subject {subject}')

    def _action_groups(self, actions: Ordered[str] | None) -> set[str]:
        """Return the action names (text before the first space) that the flag selects, among those of all subjects.

        All subjects, so that a name means the same for training and for test subjects.
        """
        known = dict.fromkeys(action_name(take) for side in (self.detections, self.positions)
                              for takes in side.values() for take in takes)
        if actions is None:
            return set(known)
        groups = set()
        for wanted in actions:
            matches = [wanted] if wanted in known else [name for name in known if name.startswith(wanted)]
            if len(matches) != 1:
                raise FlagError(f'unknown action {wanted}; there are {", ".join(known)}' if not matches else
                                f'action {wanted} is ambiguous: write one of {", ".join(matches)}')
            groups.update(matches)
        return groups

    def _takes(self, subject: str, groups: set[str]) -> list[str]:
        seen, moved = ({take for take in side[subject] if action_name(take) in groups}
                       for side in (self.detections, self.positions))
        for lacking, missing in ((self.source_3d, seen - moved), (self.source_2d, moved - seen)):
            if missing:
                raise FileError(f'{lacking} has no action {min(missing)} of subject {subject}, but the other side has; '
                                f'make both files from the same takes')
        return [take for take in self.detections[subject] if take in seen]

    def _check_views(self, subject: str, take: str, views: list[np.ndarray]) -> None:
        """Raise FileError unless there is a view for each camera."""
        if len(views) != len(self.cameras[subject]):
            raise FileError(f'{self.source_2d} has {len(views)} cameras for {subject} {take}, but {self.name} has '
                            f'{len(self.cameras[subject])}')

    def _sequences_of_take(self, subject: str, take: str, downsample: int, subset: float) -> Iterator[Sequence]:
        """Yield a take as each camera sees it. Raises FileError where its sides do not fit each other."""
        where = f'{subject} {take}'
        positions = self.positions[subject][take]
        cameras, views = self.cameras[subject], self.detections[subject][take]
        self._check_views(subject, take, views)
        if not self.flat:
            check_numbers(self.source_3d, where, positions, self.skeleton, MOST_METRES)
        kept = frames_kept(len(positions), downsample, subset)
        if self.anew is not None:
            yield from self.anew(subject, take, positions[kept])
            return
        marks = self.marks.get(subject, {}).get(take)
        for index, (camera, pixels) in enumerate(zip(cameras, views, strict=True)):
            if len(pixels) < len(positions):
                raise FileError(f'{self.source_2d} has {len(pixels)} frames for {where} camera {index}, but '
                                f'{self.source_3d} has {len(positions)}: make both from the same frames, or cut the 3D '
                                f'at the end')
            if len(pixels) > LONGER * len(positions) + 50:
                raise FileError(f'{self.source_2d} has {len(pixels)} frames for {where} camera {index}, but '
                                f'{self.source_3d} has {len(positions)}: they seem to be of different frame rates or '
                                f'takes; make both from the same frames')
            # Some videos run on for a few frames after the motion ends: the tail is cut, as VideoPose3D does.
            pixels = pixels[:len(positions)]
            check_numbers(self.source_2d, f'{where} camera {index}', pixels[..., :2], self.layout, MOST_PIXELS)
            keypoints, confidence = _on_screen(pixels[kept], camera)
            if self.flat:
                poses, root = np.pad(keypoints, ((0, 0), (0, 0), (0, 1))), None
            else:
                poses = camera.from_world(positions[kept])
                root = poses[:, self.skeleton.root]
                poses = poses - root[:, None]
            yield Sequence(subject, take, index, keypoints, poses, root, camera.intrinsic, None if marks is None else
                           marks[kept], confidence, upright=camera.upright if self.upright else None)


def check_numbers(source: str, where: str, values: np.ndarray, layout: Skeleton, most: float) -> None:
    """Raise FileError, naming frame and joint, for coordinates (T, J, C) that are not finite or absurdly large."""
    with np.errstate(invalid='ignore'):
        wrong = ~(np.abs(values) <= most).all(axis=-1)  # NaN compares as False
    if wrong.any():
        frame, joint = np.argwhere(wrong)[0]
        value = values[frame, joint]
        large = f'a coordinate of {np.abs(value).max():.3g}'
        kind = large if np.isfinite(value).all() else 'NaN or infinite coordinates'
        raise FileError(f'{source} holds {kind} in {where}, at joint {layout.joints[joint]} of frame {frame}: cut out '
                        f'or interpolate what is missing')


def _on_screen(pixels: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray | None]:
    """Return normalised keypoints (T, K, 2) and, where there is a third column, the confidence (T, K)."""
    confidence = np.nan_to_num(pixels[..., 2]) if pixels.shape[-1] == 3 else None
    return normalise(pixels[..., :2], camera.width, camera.height), confidence


class Count(NamedTuple):
    """Compare how many of something were found with how many a complete copy of the data set has.

    With `at_most`, fewer than that, but not none, are as good.
    """

    what: str
    found: int
    known: int
    at_most: bool = False


def action_name(take: str) -> str:
    """Return the action of a take, the text before the first space: `Walking` for `Walking 1`."""
    return take.split(' ')[0]


def frames_kept(length: int, downsample: int, subset: float) -> slice:
    """Return the frames of a take that --downsample and --subset leave: a stretch from its middle."""
    count = max(1, round(length * subset))
    start = (length - count) // 2
    return slice(start, start + count, downsample)


def read_positions(path: Path, joints: int, member: str = 'positions_3d') -> tuple[dict, dict]:
    """Return the 3D file as (subject -> action -> (T, joints, 3) float32, all members of the file).

    Raises FileError where the file is not of that form.
    """
    members = read_npz(path)
    positions = {
        subject: {action: as_frames(path, f'{subject} {action}', array, joints, 3) for action, array in actions.items()}
        for subject, actions in _nested_dict(path, member, members).items()
    }
    return positions, members


def read_detections(path: Path, layout_of: LayoutRule) -> tuple[dict, Skeleton]:
    """Return the 2D file as (subject -> action -> [(T, K, 2) float32 per camera], the layout of its keypoints).

    Args:
        layout_of: what finds the layout, such as `keypoint_layout` returns.

    Raises FileError where the file is not of that form.
    """
    members = read_npz(path)
    tree = _nested_dict(path, 'positions_2d', members)
    metadata = members.get('metadata', {})
    count = _first_joint_count(path, tree)
    try:
        layout = layout_of(metadata if isinstance(metadata, dict) else {}, count)
    except ValueError as error:
        raise FileError(f'{path}: {error}') from None
    detections: dict[str, dict[str, list[np.ndarray]]] = {}
    for subject, actions in tree.items():
        detections[subject] = {}
        for action, views in actions.items():
            if not _is_list(views):
                raise FileError(f'{path}: {subject} {action} is {type(views).__name__}, expected a list of one array '
                                f'per camera')
            detections[subject][action] = [
                as_frames(path, f'{subject} {action} camera {camera}', view, len(layout), 2)
                for camera, view in enumerate(views)
            ]
    return detections, layout


def keypoint_layout(name: str, default: Skeleton) -> LayoutRule:
    """Return the rule that finds the layout of the 2D file called `name`: (metadata, count) -> Skeleton.

    A file says it in its metadata, or has the 16 keypoints of MPII, or `coco` in its name, or is in the data set's
    own order. A file whose left and right lists say otherwise is refused, since it would be mirrored wrongly.
    """
    def layout_of(metadata: dict, count: int) -> Skeleton:
        said = metadata.get('layout_name')
        symmetry = metadata.get('keypoints_symmetry')
        if said is None:
            layout = MPII if count == len(MPII) != len(default) else COCO if 'coco' in name else default
            # SemGCN's files of Human3.6M without the neck have the same names: their left and right tell them apart
            without_neck = [sorted(H36M16.left), sorted(H36M16.right)]
            if layout is MPII and default is H36M and _same_sides(symmetry, without_neck):
                layout = H36M16
        elif isinstance(said, str) and said in SKELETONS:
            layout = SKELETONS[said]
        else:
            raise ValueError(f'unknown keypoint layout {shown(said)}; known are {", ".join(SKELETONS)}')
        if count == len(H36M16) != len(layout) and layout is H36M:
            raise ValueError("its 16 keypoints are Human3.6M's without the neck, as SemGCN and GraFormer have them: "
                             "get VideoPose3D's file with 17, or set layout_name to h36m16 in its metadata")
        if count != len(layout):
            raise ValueError(f'{count} keypoints, but layout {layout.name} has {len(layout)}')
        sides = [sorted(layout.left), sorted(layout.right)]
        if symmetry is not None and not _same_sides(symmetry, sides):
            raise ValueError(f'its left and right keypoints {shown(symmetry)} are not those of layout {layout.name}, '
                             f'{sides}')
        return layout
    return layout_of


def _same_sides(symmetry: Any, sides: list[list[int]]) -> bool:
    try:
        return [sorted(side) for side in symmetry] == sides
    except (TypeError, ValueError):  # not two lists of numbers
        return False


def _nested_dict(path: Path, member: str, members: dict) -> dict:
    if member not in members:
        raise FileError(f'{path} has no {member}; it holds {", ".join(members) or "nothing"}')
    tree = members[member]
    if not isinstance(tree, dict) or not all(isinstance(actions, dict) for actions in tree.values()):
        raise FileError(f'{path}: {member} is not a dict of subjects that are dicts of actions')
    for name in (*tree, *(take for actions in tree.values() for take in actions)):
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            raise FileError(f'{path}: {member} has the name {shown(name)}, expected text for subjects and actions')
    return tree


def _first_joint_count(path: Path, tree: dict) -> int:
    for actions in tree.values():
        for views in actions.values():
            for view in views if _is_list(views) else ():
                if getattr(view, 'ndim', 0) == 3:
                    return view.shape[1]
    raise FileError(f'{path} holds no (frames, keypoints, 2) array')


def _is_list(views: Any) -> bool:
    return isinstance(views, (list, tuple)) or (isinstance(views, np.ndarray) and views.ndim > 0)


def as_frames(path: Path, where: str, array: Any, joints: int, channels: int) -> np.ndarray:
    """Return float32 (T, joints, channels), or (T, joints, 3) where a detector's score stands after x and y.

    Raises FileError for other arrays.
    """
    shape = getattr(array, 'shape', type(array).__name__)
    fits = isinstance(array, np.ndarray) and array.ndim == 3 and array.shape[1] == joints and array.dtype.kind in 'fiu'
    if joints == MOCAP_JOINTS and isinstance(array, np.ndarray) and array.shape[1:] == (len(H36M), 3):
        raise FileError(f'{path}: {where} has 17 joints, expected all 32 of Human3.6M: make the file with '
                        f"data/prepare_data_h36m.py, or get VideoPose3D's")
    if not fits or not (array.shape[2] == channels or (channels == 2 and array.shape[2] == 3)):
        raise FileError(f'{path}: {where} is {shape}, expected (frames, {joints}, {channels}) numbers')
    if not len(array):
        raise FileError(f'{path}: {where} has no frames')
    with np.errstate(over='ignore'):  # what does not fit becomes infinite, and is refused where it is selected
        return array.astype(np.float32, copy=False)
