"""Detections of 2D keypoints, one npz file per video, to data_2d_<dataset>_<name>.npz.

    python data/prepare_data_2d.py FOLDER --name NAME --data DIR
    python data/prepare_data_2d.py FOLDER --name NAME --dataset h36m --layout h36m --data DIR
    python data/prepare_data_2d.py FOLDER --name NAME --dataset humaneva15 --mocap converted_15j --data DIR

FOLDER holds the output of Detectron-style inference for each video, `<video file name>.npz`: `boxes` and `keypoints`,
each with an entry per frame whose item 1 holds the persons, as (n, 5) rows x1, y1, x2, y2, score and (n, rows, K)
rows x, y, …; and `metadata`, a dict with the video's `w` and `h` in pixels. Where there are six rows or more, rows 4
and 5 are read as x and y: Detectron's finer estimate. The person with the highest score is kept. --layout names the
layout of the K keypoints.

custom (the default): `clip.mp4.npz` directly in FOLDER becomes subject `clip.mp4`, action `custom`, one camera. Frames
without a person are interpolated linearly, nearest at the ends; `video_metadata` holds the size of each video.

h36m: `S1/Videos/Directions 1.54138969.mp4.npz`, anywhere below a folder named after the subject; the number is the
camera's, see CAMERAS. Takes are renamed, and S11's Directions left out, as prepare_data_h36m.py does. S2, S3 and S4,
which have no 3D, may be missing.

humaneva15, humaneva20: `S1/…/Walking_1_(C1).avi.npz`. The videos of the takes in --mocap, the folder that
prepare_data_humaneva.py read, are cut to their part of the official split and into its chunks. Chunks without a pose go
to `Unlabeled/Train/S1` and so on; other videos go whole to `Unlabeled/S1`, as `Walking 2`.

For both data sets, frames without a person repeat the pose before (at the start, the one after), as in the public
files. All cameras of a take are needed. Where the file gives the video's size, it must be that of the data set.

Letters: T frames, K keypoints.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.datasets import h36m, humaneva
from common.errors import FileError, FlagError
from common.skeleton import COCO, H36M, HUMANEVA15, HUMANEVA20, MPII, Skeleton
from common.storage.npz import read_npz
from data import conversion as shared
from data import prepare_data_h36m, prepare_data_humaneva

LAYOUTS = {layout.name: layout for layout in (COCO, H36M, MPII, HUMANEVA15, HUMANEVA20)}
MOST_FRAMES = 1_000_000
DATASETS = ('custom', 'h36m', 'humaneva15', 'humaneva20')
CAMERAS = {'h36m': ('54138969', '55011271', '58860488', '60457274'), 'humaneva': ('C1', 'C2', 'C3')}
VIDEOS = {'h36m': (r'(.+)\.(\d+)\.\w+\.npz', 'S1/Directions 1.54138969.mp4.npz'),
          'humaneva': (r'([A-Za-z]+_\d+)_\((\w+)\)\.\w+\.npz', 'S1/Walking_1_(C1).avi.npz')}
SIZES = {'h36m': [(lens.width, lens.height) for lens in h36m.LENSES], 'humaneva': [(640, 480)] * 3}
# subject -> take -> the frame of each camera's video, from 1, in which the mocap starts
SYNC = {
    'S1': {'Walking 1': (82, 81, 82), 'Jog 1': (51, 51, 50), 'ThrowCatch 1': (61, 61, 60), 'Gestures 1': (45, 45, 44),
           'Box 1': (57, 57, 56)},
    'S2': {'Walking 1': (115, 115, 114), 'Jog 1': (100, 100, 99), 'ThrowCatch 1': (127, 127, 127),
           'Gestures 1': (122, 122, 121), 'Box 1': (119, 119, 117)},
    'S3': {'Walking 1': (80, 80, 80), 'Jog 1': (65, 65, 65), 'Gestures 1': (83, 83, 82), 'Box 1': (1, 1, 1)},
}


# ---- one video --------------------------------------------------------------------------------------------------


def read_video(path: Path, layout: Skeleton) -> tuple[np.ndarray, dict | None]:
    """Read the best person of each frame, (T, K, 2) float32 pixels, NaN where there is none, and the metadata.

    Raises FileError for a file that is broken, of another form or without any person.
    """
    members = read_npz(path)
    for name in ('boxes', 'keypoints'):
        entries = members.get(name)
        if not isinstance(entries, list) and not (isinstance(entries, np.ndarray) and entries.ndim):
            raise FileError(f'{path} has no list {name}: it is not what a detector wrote for a video')
    boxes, keypoints = members['boxes'], members['keypoints']
    if len(boxes) != len(keypoints):
        raise FileError(f'{path} has boxes of {len(boxes)} frames, but keypoints of {len(keypoints)}')
    if len(boxes) > MOST_FRAMES:
        raise FileError(f'{path} has {len(boxes):,} frames, expected at most {MOST_FRAMES:,}')
    track = np.full((len(boxes), len(layout), 2), np.nan, np.float32)
    for frame, entries in enumerate(zip(boxes, keypoints, strict=True)):
        where = f'{path}: frame {frame}'
        found, points = (_persons(where, entry) for entry in entries)
        if len(found) or len(points):
            shared.numbers(f'{where}: boxes', found, ('persons', 5))
            shared.numbers(f'{where}: keypoints', points, (len(found), 'rows', len(layout)), finite=False)
            best = points[found[:, 4].argmax()]
            best = best[4:6] if len(best) >= 6 else best[:2]
            track[frame] = shared.numbers(f'{where}: x and y', best, (2, len(layout))).T
    if not np.isfinite(track).any():
        raise FileError(f'{path} has no person in any of its {len(track)} frames; leave it out')
    return track, members.get('metadata')


def _persons(where: str, entry: Any) -> Any:
    """Return the persons of a frame's entry, an empty tuple where there are none. Raises FileError."""
    try:
        return entry[1] if len(entry[1]) else ()
    except (TypeError, IndexError, KeyError):
        raise FileError(f'{where} has no item 1 that holds persons') from None


def interpolate(track: np.ndarray) -> np.ndarray:
    """Fill frames of NaN in a track (T, K, 2): linearly between their neighbours, with the nearest at the ends."""
    known = np.flatnonzero(np.isfinite(track).all(axis=(1, 2)))
    columns = [np.interp(np.arange(len(track)), known, column[known]) for column in track.reshape(len(track), -1).T]
    return np.stack(columns, axis=1).reshape(track.shape).astype(np.float32)


def repeat(track: np.ndarray) -> np.ndarray:
    """Fill frames of NaN in a track (T, K, 2) with the last frame before them, or at the start the first after them."""
    known = np.isfinite(track).all(axis=(1, 2))
    source = np.maximum.accumulate(np.where(known, np.arange(len(track)), known.argmax()))
    return track[source]


def video_size(path: Path, metadata: Any) -> tuple[int, int]:
    """Return (width, height) of a video in pixels, from the metadata of its file. Raises FileError."""
    size = metadata if isinstance(metadata, dict) else {}
    if not all(isinstance(size.get(key), (int, np.integer)) and size[key] > 0 for key in 'wh'):
        raise FileError(f'{path}: metadata does not tell w and h of the video in pixels')
    return int(size['w']), int(size['h'])


# ---- many videos ------------------------------------------------------------------------------------------------


def custom_views(folder: Path, layout: Skeleton) -> tuple[dict, dict]:
    """Read the files in a folder: (video -> 'custom' -> [(T, K, 2) float32], video -> its w and h).

    Raises FileError.
    """
    paths = sorted(shared.existing(folder).glob('*.npz'))
    if not paths:
        raise FileError(f'{folder} holds no <video>.npz: run a detector on your videos first')
    views, sizes = {}, {}
    for path in tqdm(paths, desc='videos', unit='video', disable=None):
        track, metadata = read_video(path, layout)
        width, height = video_size(path, metadata)
        views[path.name.removesuffix('.npz')] = {'custom': [interpolate(track)]}
        sizes[path.name.removesuffix('.npz')] = {'w': width, 'h': height}
    return views, sizes


def find_videos(folder: Path, dataset: str) -> dict[tuple[str, str], list[Path]]:
    """Find the videos' files; return (subject, take) -> the file of each camera, in order, subjects by number.

    Raises FileError where the folder or files are missing, or a name lacks a known subject, take or camera.
    """
    kind = 'h36m' if dataset == 'h36m' else 'humaneva'
    cameras, (pattern, example) = CAMERAS[kind], VIDEOS[kind]
    found: dict[tuple[str, str], list[Path | None]] = {}
    for path in sorted(shared.existing(folder).rglob('*.npz')):
        subjects = [part for part in path.relative_to(folder).parts[:-1] if re.fullmatch(r'S\d+', part)]
        match = re.fullmatch(pattern, path.name)
        if not subjects or not match or match[2] not in cameras:
            raise FileError(f'{path} is not named like {example}, with a camera of {", ".join(cameras)}')
        take = prepare_data_h36m.take_name(path, match[1]) if kind == 'h36m' else match[1].replace('_', ' ')
        key, camera = (subjects[-1], take), cameras.index(match[2])
        if key == prepare_data_h36m.CORRUPT and kind == 'h36m':
            continue
        views = found.setdefault(key, [None] * len(cameras))
        if views[camera]:
            raise FileError(f'{views[camera]} and {path} are the same video; keep one of them')
        views[camera] = path
    if not found:
        raise FileError(f'{folder} holds no file named like {example}')
    videos: dict[tuple[str, str], list[Path]] = {}
    for (subject, take), views in found.items():
        if None in views:
            raise FileError(f'{folder} has no file for {take} of {subject}, camera {cameras[views.index(None)]}')
        videos[subject, take] = [view for view in views if view is not None]
    return dict(sorted(videos.items(), key=lambda item: int(item[0][0][1:])))


def read_cameras(paths: list[Path], layout: Skeleton, dataset: str) -> list[np.ndarray]:
    """Read the tracks of a take, (T, K, 2) float32, one per camera, without gaps. Raises FileError."""
    tracks = []
    for path, size in zip(paths, SIZES['h36m' if dataset == 'h36m' else 'humaneva'], strict=True):
        track, metadata = read_video(path, layout)
        if metadata is not None and video_size(path, metadata) != size:
            raise FileError(f'{path} is of a video of {video_size(path, metadata)} pixels, expected {size}')
        tracks.append(repeat(track))
    return tracks


def h36m_views(folder: Path, layout: Skeleton, force: bool) -> dict[str, dict]:
    """Read subject -> take -> four (T, K, 2) float32 tracks.

    Raises FileError, also where a subject has another number of takes than `h36m.TAKES`.
    """
    videos = find_videos(folder, 'h36m')
    known = {f'takes of {subject}': takes for subject, takes in h36m.TAKES.items()}
    found: dict[str, int] = {}
    for subject, _ in videos:
        if subject not in h36m.UNSEEN:
            found[f'takes of {subject}'] = found.get(f'takes of {subject}', 0) + 1
    shared.check_counts(found, known, force)
    views: dict[str, dict] = {}
    for (subject, take), paths in tqdm(videos.items(), desc='takes', unit='take', disable=None):
        views.setdefault(subject, {})[take] = read_cameras(paths, layout, 'h36m')
    return views


def humaneva_views(folder: Path, layout: Skeleton, dataset: str, mocap: Path, force: bool) -> dict[str, dict]:
    """Read subject -> chunk or take -> three (T, K, 2) float32 tracks.

    Raises FileError, also where the videos of the official split differ from the takes in `mocap`.
    """
    videos = find_videos(folder, dataset)
    files = prepare_data_humaneva.find_takes(mocap)
    ranges = humaneva.RANGES
    shared.check_counts({f'videos of {subject} {take}': 1 for subject, take in ranges
                         if (subject.split('/')[1], take) in videos},
                        {f'videos of {subject} {take}': 1 for subject, take in files}, force)
    views: dict[str, dict] = {}
    for (subject, take), paths in tqdm(videos.items(), desc='takes', unit='take', disable=None):
        tracks = read_cameras(paths, layout, dataset)
        if (f'Train/{subject}', take) not in ranges:
            views.setdefault(f'Unlabeled/{subject}', {})[take] = tracks
            continue
        for split in humaneva.SPLITS:
            key = f'{split}/{subject}', take
            if key in files:
                for name, chunk, cut in _chunks(files[key], dataset, key, tracks, paths):
                    views.setdefault(name, {})[chunk] = cut
    return views


def _chunks(file: Path, dataset: str, key: tuple[str, str], tracks: list[np.ndarray],
            paths: list[Path]) -> Iterator[tuple[str, str, list[np.ndarray]]]:
    """Yield (subject, chunk, tracks) of one take in one part of the split. Raises FileError."""
    subject, take = key
    start, end = humaneva.RANGES[key]
    poses, _ = prepare_data_humaneva.read_take(file)
    if dataset != f'humaneva{poses.shape[1]}':
        raise FileError(f'{file} has {poses.shape[1]} joints, expected those of --dataset {dataset}')
    if len(poses) != end - start:
        raise FileError(f'{file} has {len(poses)} frames, expected {end - start}: the video cannot be cut to fit')
    cut = []
    for track, path, first in zip(tracks, paths, SYNC[subject.split('/')[1]][take], strict=True):
        if len(track) < end + first - 1:
            raise FileError(f'{path} has {len(track)} frames, but {subject} {take} ends at {end + first - 1}')
        cut.append(track[start + first - 1:end + first - 1])
    for number, (begin, stop, posed) in enumerate(prepare_data_humaneva.runs(poses)):
        yield (subject if posed else f'Unlabeled/{subject}', f'{take} chunk{number}',
               [track[begin:stop] for track in cut])


# ---- the command ------------------------------------------------------------------------------------------------


def work(arguments: argparse.Namespace) -> str:
    """Convert and write; return the summary. Raises FileError and FlagError."""
    dataset, layout, name = arguments.dataset, LAYOUTS[arguments.layout], arguments.name
    if not re.fullmatch(r'\w[\w.-]*', name):
        raise FlagError(f'--name {name!r} is part of a file name: use letters, digits and _ . -')
    if dataset.startswith('humaneva') and arguments.mocap is None:
        raise FlagError(f'--dataset {dataset} needs --mocap DIR, the folder that prepare_data_humaneva.py read: the '
                        f'chunks come from there')
    if not dataset.startswith('humaneva') and arguments.mocap is not None:
        raise FlagError(f'--dataset {dataset} takes no --mocap')
    metadata = shared.keypoints_metadata(layout)
    form = dict(metadata)
    if dataset == 'custom':
        if arguments.force:
            raise FlagError('--force: how many custom videos there are is not known, and nothing is checked')
        views, metadata['video_metadata'] = custom_views(arguments.folder, layout)
        form['video_metadata'] = {str: {'w': int, 'h': int}}
        cameras = 1
    elif dataset == 'h36m':
        views, cameras = h36m_views(arguments.folder, layout, arguments.force), 4
    else:
        views = humaneva_views(arguments.folder, layout, dataset, arguments.mocap, arguments.force)
        cameras = prepare_data_humaneva.CAMERAS
    path = shared.write_checked(
        arguments.data / f'data_2d_{dataset}_{name}.npz',
        {'positions_2d': {str: {str: [('frames', len(layout), 2)] * cameras}}, 'metadata': form},
        positions_2d=views, metadata=metadata)
    return shared.summary({subject: {take: len(tracks[0]) for take, tracks in takes.items()}
                           for subject, takes in views.items()}, [path])


def main(argv: list[str] | None = None) -> int:
    """Run the converter from the command line; return the exit status."""
    parser = shared.make_parser('prepare_data_2d.py', __doc__.splitlines()[0], 'folder with <video>.npz of a detector')
    parser.add_argument('--name', required=True, metavar='NAME', help='what -k will call the file')
    parser.add_argument('--dataset', choices=DATASETS, default='custom', help='what the videos are (default: custom)')
    parser.add_argument('--layout', choices=LAYOUTS, default='coco', help='what the keypoints are (default: coco)')
    parser.add_argument('--mocap', type=Path, metavar='DIR', help='converted_15j or converted_20j (HumanEva only)')
    shared.add_force(parser)
    return shared.run(parser, argv, work)


if __name__ == '__main__':
    sys.exit(main())
