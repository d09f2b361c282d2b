"""CMU motion capture (ASF skeletons and AMC motion, or BVH) to this project's npz files, filmed by virtual cameras.

    python data/prepare_data_cmu.py FOLDER --data DIR

FOLDER is searched with its subfolders for `NN.asf` and `NN_MM.amc`, each plain or gzipped, as the Carnegie Mellon
Graphics Lab gives them out at http://mocap.cs.cmu.edu, and for `NN_MM.bvh`, as B. Hahne converted them (cgspeed.com);
`cmu-mocap-index.csv` in FOLDER, if there, names the actions.
DIR receives `data_3d_cmu.npz`, `data_2d_cmu_gt.npz` (exact projections) and `data_2d_cmu_noisy.npz` (projections with
Gaussian noise, standing for a detector). Nothing is written unless everything could be converted.

Letter: T frames.
"""

import argparse
import csv
import math
import re
import sys
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.datasets import bvh
from common.datasets.acclaim import Skeleton, joint_positions, read_amc, read_asf, read_text
from common.datasets.virtual_cameras import project_all, simulate_detections, surround
from common.errors import FileError, FlagError
from common.geometry.camera import Camera
from common.skeleton import H36M
from common.storage.npz import write_npz
from data import conversion as shared

SOURCE_FPS = 120  # AMC files do not say it; the database was recorded at 120 frames a second
FPS = 50  # as Human3.6M
SMOOTHING = 1.0  # source frames of 1/120 s; raw motion has jumps of single frames at foot strikes and in the wrists
SEED = 0  # of the simulated detections
# Takes of one subject differ by up to 4 cm in height, head and feet alike (38_01 and 38_02), so each gets a floor of
# its own: 4 cm below the standing height of the lower ankle, about where the toes of a person standing still are. (Toes
# themselves cannot be used: those of some skeletons dip 8 cm below the floor.) In walking a foot rolls by some
# centimetres, and in jumps and runs it leaves the floor, so its standing height is a low percentile, not the minimum.
ANKLE_HEIGHT = 0.04  # metres
STANDING = 25  # percentile of the height of the lower ankle
FARTHEST = 50.0  # metres that a take may cover; the capture volume is 3 m by 8 m
INDEX = 'cmu-mocap-index.csv'
NO_LABEL = 'Motion'
# Of the 20 subjects in docs/results.md every fourth is tested on. They stay so in a folder that holds more of the
# database, so that more training can be judged by the same people.
TEST_NUMBERS, TEST_NAMES = ('06', '11', '35', '49'), ('zombie',)
# The index has `walking` for Walk and so on. Not every -ing is such a form: Fishing is not Fish, which is a pantomime.
VERBS = ('Walk', 'Run', 'Jump', 'March', 'Kick', 'Punch', 'Throw', 'Stretch', 'Sneak', 'Limp', 'Laugh')


@dataclass(frozen=True)
class Conversion:
    """The content of the files to write.

    Attributes:
        positions: subject -> action -> (T, 17, 3) float32, metres, z up.
        cameras: subject -> four cameras.
        views: 'gt' and 'noisy' -> subject -> action -> four (T, 17, 2) float32 arrays of pixels.
        aliases: named skeleton that is the same as a numbered subject's -> that subject.
        train, test: the subjects of the default split.
        notes: what is to be told of BVH files.
    """

    positions: dict[str, dict[str, np.ndarray]]
    cameras: dict[str, list[Camera]]
    views: dict[str, dict]
    aliases: dict[str, str]
    train: list[str]
    test: list[str]
    notes: list[str]


def smooth(signal: np.ndarray, sigma: float) -> np.ndarray:
    """Convolve a signal (T, ...) along time with a Gaussian of `sigma` frames; straight motion is unchanged."""
    reach = math.ceil(4 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    padding = [(reach, reach)] + [(0, 0)] * (signal.ndim - 1)
    padded = np.pad(signal, padding, mode='reflect', reflect_type='odd')
    return sum(weight * padded[k:k + len(signal)] for k, weight in enumerate(weights))


def resample(signal: np.ndarray, source_fps: float, fps: float) -> np.ndarray:
    """Resample a signal (T, ...) to another frame rate by linear interpolation; the first frame is kept."""
    count = int((len(signal) - 1) * fps / source_fps + 1e-9) + 1
    times = np.arange(count) * source_fps / fps
    before = np.minimum(times.astype(int), len(signal) - 1)
    after = np.minimum(before + 1, len(signal) - 1)
    weight = (times - before).reshape(-1, *[1] * (signal.ndim - 1))
    return (1 - weight) * signal[before] + weight * signal[after]


def to_world(joints: np.ndarray) -> np.ndarray:
    """Convert joints (T, 17, 3) in metres, y up, to float32 (T, 17, 3), z up, standing on z = 0 and centred.

    This is a quarter turn about x, not an exchange of axes, so left stays left. Most takes walk along the source's z,
    which becomes -y, between the cameras: they can stand nearer than if people walked across their view.
    """
    world = np.stack([joints[..., 0], -joints[..., 2], joints[..., 1]], axis=-1)
    low, high = world[..., :2].min((0, 1)), world[..., :2].max((0, 1))
    ankles = world[:, [H36M.joints.index('left_ankle'), H36M.joints.index('right_ankle')], 2]
    floor = np.percentile(ankles.min(axis=1), STANDING) - ANKLE_HEIGHT
    return (world - [*(low + high) / 2, floor]).astype(np.float32)


def read_labels(folder: Path) -> dict[str, str]:
    """Read clip -> label from the trial index in the folder; return an empty dict where there is none.

    After some lines of preface, its columns are MOTION (such as 07_01), DESCRIPTION and SUBJECT. The description of
    clips that CMU does not describe is "Unknown".
    """
    path = folder / INDEX
    if not path.exists():
        return {}
    try:
        rows = list(csv.reader(read_text(path).splitlines()))
    except csv.Error as error:
        raise FileError(f'{path} is not a readable csv file ({error})') from None
    return {row[0]: label(row[1]) for row in rows if len(row) > 1 and re.fullmatch(r'\d+_\d+', row[0])}


def label(description: str) -> str:
    """Return a description's first activity as one word: Run for `run/jog`, WashSelf for `wash self`.

    Forms in -ing of VERBS are shortened: Walk for `walking, sitting`.
    """
    activity = re.split(r'[,\-/(]| and ', description)[0]
    word = ''.join(part.capitalize() for part in re.findall('[A-Za-z]+', activity))
    if word.removesuffix('ing') in VERBS:
        word = word.removesuffix('ing')
    return word if word not in ('', 'Unknown') else NO_LABEL


def find_files(folder: Path) -> dict[str, dict[str, Path]]:
    """Find the files under a folder; return those of '.asf', '.amc' and '.bvh' by stem, sorted by name.

    Raises FileError where the folder or the motion is missing, a stem occurs twice, or a name cannot be printed.
    """
    found: dict[str, dict[str, Path]] = {'.asf': {}, '.amc': {}, '.bvh': {}}
    clips: dict[str, Path] = {}
    for path in sorted(shared.existing(folder).rglob('*')):
        match = re.fullmatch(r'(.+)(\.asf|\.amc|\.bvh)(\.gz)?', path.name, re.IGNORECASE)
        if match and path.is_file():
            stem, kind = match[1], match[2].lower()
            files = found[kind]
            same = files if kind == '.asf' else clips  # a take may be AMC or BVH, not both
            if stem in same:
                raise FileError(f'{same[stem]} and {path} are both called {stem}; keep one of them')
            if not path.name.isprintable():
                raise FileError(f'{path} has a name that is not UTF-8 or cannot be printed: rename it')
            files[stem] = same[stem] = path
    if not clips:
        raise FileError(f'{folder} holds no .amc, .amc.gz, .bvh or .bvh.gz file; fetch some from '
                        f'http://mocap.cs.cmu.edu')
    return found


def skeleton_of(clip: str, path: Path, skeletons: Iterable[str]) -> str:
    """Return the stem of a clip's ASF file: `07` for 07_01, else the longest stem that the clip starts with.

    Raises FileError where there is none.
    """
    subject = clip.rpartition('_')[0]
    if subject in skeletons:
        return subject
    # 13.asf is not the skeleton of 131_01.amc
    prefixes = [stem for stem in skeletons if re.match(re.escape(stem) + r'(?!(?<=\d)\d)', clip)]
    if not prefixes:
        raise FileError(f'{path} has no skeleton: {subject or clip}.asf is missing')
    return max(prefixes, key=len)


def find_aliases(skeletons: dict[str, Skeleton]) -> dict[str, str]:
    """Find named skeletons with exactly the bones of a CMU number, the same calibration of the same person.

    Returns name -> number.
    """
    numbered = [stem for stem in skeletons if stem.isdecimal()]
    return {name: same[0] for name in skeletons if not name.isdecimal()
            if (same := [stem for stem in numbered if skeletons[stem] == skeletons[name]])}


def split(subjects: list[str]) -> tuple[list[str], list[str]]:
    """Split subjects into (train, test).

    Where all of TEST_NUMBERS are there, they and TEST_NAMES are for testing; otherwise every fourth, or the last of
    fewer than four. A single subject is in both.
    """
    if set(TEST_NUMBERS) <= set(subjects):
        test = [subject for subject in subjects if subject in TEST_NUMBERS + TEST_NAMES]
    else:
        test = subjects[3::4] or subjects[-1:]
    return [subject for subject in subjects if subject not in test] or test, test


def convert(folder: Path, seed: int = SEED, bvh_unit: float | None = None) -> Conversion:
    """Make the content of the three files from the ASF, AMC and BVH files under a folder.

    `bvh_unit` is metres in a unit of the BVH files; None finds it. Raises FileError for what is missing or cannot be
    understood.
    """
    files = find_files(folder)
    labels = read_labels(folder)
    stems = {clip: skeleton_of(clip, path, files['.asf']) for clip, path in files['.amc'].items()}
    skeletons = {stem: read_asf(path) for stem, path in files['.asf'].items()}
    aliases = find_aliases(skeletons)
    owners = {clip: aliases.get(stem, stem) for clip, stem in stems.items()}
    owners |= {clip: clip.rpartition('_')[0] or clip for clip in files['.bvh']}
    subjects = sorted(set(owners.values()),
                      key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    positions: dict[str, dict[str, np.ndarray]] = {subject: {} for subject in subjects}
    reader = BvhReader(bvh_unit)
    for clip, path in tqdm((files['.amc'] | files['.bvh']).items(), desc='motion', unit='clip', disable=None):
        action = f'{labels.get(clip, NO_LABEL)} {clip}'
        positions[owners[clip]][action] = (read_motion(path, skeletons[stems[clip]]) if clip in stems
                                           else reader.read_motion(path))
    cameras = {}
    views: dict[str, dict] = {'gt': {}, 'noisy': {}}
    for subject, actions in tqdm(positions.items(), desc='cameras', unit='subject', disable=None):
        cameras[subject] = surround(list(actions.values()))
        exact = {action: project_all(motion, cameras[subject]) for action, motion in actions.items()}
        views['gt'][subject] = exact
        # Seeded by the clip, so that its noise does not depend on the other files in the folder.
        views['noisy'][subject] = {
            action: simulate_detections(view, np.random.default_rng([seed, zlib.crc32(action.split()[1].encode())]))
            for action, view in exact.items()
        }
    return Conversion(positions, cameras, views, aliases, *split(subjects), reader.notes())


def read_motion(path: Path, skeleton: Skeleton) -> np.ndarray:
    """Read an AMC file as (T, 17, 3) float32 world positions at 50 frames a second. Raises FileError."""
    return at_rate(path, joint_positions(skeleton, read_amc(path, skeleton)) * skeleton.unit, SOURCE_FPS)


def at_rate(path: Path, joints: np.ndarray, source_fps: float) -> np.ndarray:
    """Return joints (T, 17, 3) in metres, y up, as float32 world positions at 50 frames a second. Raises FileError."""
    covered = np.ptp(joints, axis=(0, 1)).max()
    if not covered < FARTHEST:
        raise FileError(f'{path} covers {covered:.3g} m, expected less than {FARTHEST:g} m')
    return to_world(resample(smooth(joints, SMOOTHING * source_fps / SOURCE_FPS), source_fps, FPS))


class BvhReader:
    """Reads BVH files, which do not tell their unit, in one unit for all of them.

    Attributes:
        unit: metres; None until it is found.
    """

    def __init__(self, unit: float | None):
        self.unit = unit
        self.found_in: tuple[Path, str] | None = None
        self.left_out = 0

    def read_motion(self, path: Path) -> np.ndarray:
        """Read a file as (T, 17, 3) float32 world positions at 50 frames a second. Raises FileError."""
        with shared.reading(path, 'BVH file'):
            take = bvh.read_bvh(path)
        if self.unit is None:
            self.found_in = path, bvh.unit_of(path, take)
            self.unit = bvh.UNITS[self.found_in[1]]
        if self.found_in and bvh.unit_of(path, take) != self.found_in[1]:
            raise FileError(f'the unit of {path} seems to be the {bvh.unit_of(path, take)}, but that of '
                            f'{self.found_in[0]} the {self.found_in[1]}: convert files of one unit')
        joints = bvh.joint_positions(take)
        if bvh.begins_in_rest(take, joints, self.unit):
            joints = joints[1:]
            self.left_out += 1
        return at_rate(path, joints * self.unit, take.fps)

    def notes(self) -> list[str]:
        """Return what is to be told of the files."""
        notes = []
        if self.found_in:
            notes.append(f'the unit of the BVH files is the {self.found_in[1]}: in it, everyone is {bvh.SHORTEST} to '
                         f'{bvh.TALLEST} m tall from the ankles to the top of the head')
        if self.left_out:
            notes.append(f'the first frame of {self.left_out} BVH files is a rest pose, and was left out')
        return notes


def write(conversion: Conversion, folder: Path) -> list[Path]:
    """Write the three npz files into a folder, which is made where it is missing; return their paths.

    Raises FileError when that fails.
    """
    shared.make_folder(folder)
    cameras = {
        subject: [{'orientation': camera.orientation.tolist(), 'translation': camera.translation.tolist(),
                   'width': camera.width, 'height': camera.height, 'intrinsic': np.asarray(camera.intrinsic).tolist()}
                  for camera in views]
        for subject, views in conversion.cameras.items()
    }
    metadata_3d = {
        'fps': FPS, 'subjects_train': conversion.train, 'subjects_test': conversion.test,
        'axes': 'z up, floor at z = 0; camera: x right, y down, z forward', 'units': 'metres',
    }
    paths = [folder / 'data_3d_cmu.npz']
    write_npz(paths[0], positions_3d=conversion.positions, cameras=cameras, metadata=metadata_3d)
    for name, views in conversion.views.items():
        paths.append(folder / f'data_2d_cmu_{name}.npz')
        write_npz(paths[-1], positions_2d=views, metadata=shared.keypoints_metadata(H36M))
    return paths


def summary(conversion: Conversion) -> str:
    """Return the text to print: the aliases, then a line for each subject of both sides of the split."""
    lines = [f'{name}.asf is the skeleton of subject {number}: its clips go there'
             for name, number in conversion.aliases.items()] + conversion.notes
    for side, subjects in (('train', conversion.train), ('test', conversion.test)):
        for subject in subjects:
            actions = conversion.positions[subject]
            names = dict.fromkeys(action.split()[0] for action in actions)
            lines.append(f'{side:5} {subject:>10} {len(actions):4} clips {_frames(actions):7} frames  '
                         + ', '.join(names))
    clips = sum(map(len, conversion.positions.values()))
    frames = sum(map(_frames, conversion.positions.values()))
    lines.append(f'{len(conversion.positions)} subjects, {clips} clips, {frames} frames at {FPS} a second')
    return '\n'.join(lines)


def _frames(actions: dict[str, np.ndarray]) -> int:
    return sum(map(len, actions.values()))


def work(arguments: argparse.Namespace) -> str:
    """Convert and write; return the summary. Raises FileError and FlagError."""
    centimetres = arguments.bvh_unit
    if centimetres is not None and not 0 < centimetres < math.inf:
        raise FlagError(f'--bvh-unit is {centimetres}, expected centimetres, more than 0')
    conversion = convert(arguments.folder, bvh_unit=None if centimetres is None else centimetres / 100)
    paths = write(conversion, arguments.data)
    return f'{summary(conversion)}\n{shared.wrote(paths)}'


def main(argv: list[str] | None = None) -> int:
    """Run the converter from the command line; return the exit status."""
    parser = shared.make_parser('prepare_data_cmu.py', __doc__.splitlines()[0],
                                'folder with .asf and .amc files, or .bvh files, plain or .gz')
    parser.add_argument('--bvh-unit', type=float, metavar='CM',
                        help='centimetres in a unit of the BVH files (default: found by the size of the people)')
    return shared.run(parser, argv, work)


if __name__ == '__main__':
    sys.exit(main())
