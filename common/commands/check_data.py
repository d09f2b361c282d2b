"""--check-data: whether a data set's files are there, whole, and hold people seen by its cameras.

Three kinds of check, each a function that returns sentences: files and what they lack, counts beside those of a whole
copy, and, in `plausibility`, what the numbers look like. Nothing is trained and no model is built.
"""

from pathlib import Path

import numpy as np

from common.commands.session import Session, confidence_problem
from common.datasets import DATASETS, files_of, keypoints_for, load_dataset, missing, plausibility
from common.datasets.plausibility import View, to_body
from common.datasets.poses import Count, PoseDataset, action_name
from common.errors import FileError, FlagError
from common.keypoints.bones import evenness
from common.keypoints.layouts import PLAUSIBLE, better_layout
from common.keypoints.values import quoted
from common.skeleton import Skeleton

FRAMES = 100  # of each take that `plausibility` looks at
NO_PIXELS = 5.0  # coordinates that span less are no pixels
OUTSIDE = 0.2  # share of keypoints that may lie outside of the picture
COUNTS_NAMED = 3  # of those that differ


def run(session: Session) -> None:
    """Print what is there, then OK or a numbered list of problems. Raises FileError where there are any."""
    asked = session.config.data
    name, folder = asked.dataset, Path(asked.folder)
    keypoints = keypoints_for(name, asked.keypoints)
    print(f'data set {name}, keypoints {keypoints}, folder {folder}')
    problems = [*look_at_files(name, folder, keypoints)]
    if not problems:
        try:
            dataset = load_dataset(name, folder, keypoints)
        except FileError as error:
            problems = [str(error)]
        else:
            print(inventory(dataset))
            problems = problems_of(dataset) if DATASETS[name].truth else video_problems(dataset)
    if problems:
        print('\n'.join(f'{number}. {problem}' for number, problem in enumerate(problems, 1)), flush=True)
        raise FileError(f'{len(problems)} problem{"s" * (len(problems) > 1)} with the data of {name}, listed above')
    print('OK', flush=True)


def problems_of(dataset: PoseDataset) -> list[str]:
    """Return a sentence for each problem of a data set with 3D."""
    return [*subject_problems(dataset), *count_problems(DATASETS[dataset.name].counts(dataset)),
            *fit_problems(dataset), *people_problems(dataset)]


def look_at_files(name: str, folder: Path, keypoints: str | None) -> list[str]:
    """Print which of the data set's files are there; return a sentence for each that is not."""
    problems = []
    for path in files_of(name, folder, keypoints):
        problem = missing(name, path)
        print(f'  {path}: ' + ('missing' if problem else f'{path.stat().st_size / 1e6:.1f} MB'))
        problems += [problem] if problem else []
    return problems


def inventory(dataset: PoseDataset) -> str:
    """Return a line per subject: takes, cameras and frames of one camera; then the actions."""
    lines = [f'{"subject":>14} {"takes":>6} {"cameras":>8} {"frames":>9}']
    trees = dataset.positions or {subject: {take: views[0] for take, views in takes.items()}  # videos without 3D
                                  for subject, takes in dataset.detections.items()}
    for subject, takes in trees.items():
        lines.append(f'{quoted(subject):>14} {len(takes):>6} {len(dataset.cameras.get(subject, ())):>8} '
                     f'{sum(map(len, takes.values())):>9,}')
    actions = dict.fromkeys(quoted(action_name(take)) for takes in trees.values() for take in takes)
    return '\n'.join([*lines, f'  actions: {", ".join(actions)}',
                      f'  joints of layout {dataset.skeleton.name}, keypoints of layout {dataset.layout.name}'])


def subject_problems(dataset: PoseDataset) -> list[str]:
    """Return a sentence for each file that lacks subjects of the split."""
    problems = []
    for source, tree in ((dataset.source_3d, dataset.positions), (dataset.source_2d, dataset.detections)):
        lacking = [s for s in (*dataset.subjects_train, *dataset.subjects_test) if s not in tree]
        problems += [f'{source} has no subject {", ".join(lacking)}'] if lacking else []
    return list(dict.fromkeys(problems))  # one file may hold both sides


def count_problems(counts: list[Count]) -> list[str]:
    """Print how many counts agree; return one sentence on those that differ from a whole copy's, if any."""
    wrong = [f'{c.what}: {c.found or "none":{"," * bool(c.found)}}, of a whole copy{" at most" * c.at_most} {c.known:,}'
             for c in counts if c.found > c.known or (c.found < c.known and not (c.at_most and c.found))]
    if counts:
        print(f'  {len(counts) - len(wrong)} of {len(counts)} known counts agree')
    more = f'; and {len(wrong) - COUNTS_NAMED} more that differ' if len(wrong) > COUNTS_NAMED else ''
    return ['; '.join(wrong[:COUNTS_NAMED]) + more] if wrong else []


def fit_problems(dataset: PoseDataset) -> list[str]:
    """Return a sentence for each subject whose 3D and 2D do not fit: takes, cameras, frames, finite numbers."""
    problems, confidence = list[str](), None
    for subject in dataset.positions:
        if subject in dataset.detections:
            try:
                sequences = dataset.sequences([subject])
            except (FileError, FlagError) as error:  # the latter of a subject without takes
                problems.append(str(error))
                continue
            scores = [sequence.confidence for sequence in sequences if sequence.confidence is not None]
            if scores and not confidence:
                confidence = confidence_problem(dataset.source_2d, np.concatenate(scores, axis=None))
    return [*problems, confidence] if confidence else problems


def people_problems(dataset: PoseDataset) -> list[str]:
    """Return a sentence for each check by which these are no people or no pictures of them, with its first subject."""
    shown: dict[str, list[str]] = {}
    for subject in dataset.positions:
        views = views_of(dataset, subject)
        for check, problem in plausibility.problems_of(views).items() if views else ():
            shown.setdefault(check, []).append(f'{subject}: {problem}')
    return [first + (f' (and of {len(more)} more subjects)' if more else '') for first, *more in shown.values()]


def video_problems(dataset: PoseDataset) -> list[str]:
    """Return a sentence for each video without 3D whose keypoints cannot be a person in its pictures."""
    problems = []
    for video, takes in dataset.detections.items():
        camera, views = dataset.cameras[video][0], next(iter(takes.values()))
        pixels = views[0][..., :2].astype(np.float64)
        pixels[~np.isfinite(pixels).all(axis=-1)] = np.nan
        problem = _video_problem(pixels, dataset.layout, (camera.width, camera.height))
        problems += [f'{dataset.source_2d}: {quoted(video)} {problem}'] if problem else []
    return problems


def _video_problem(points: np.ndarray, layout: Skeleton, size: tuple[int, int]) -> str | None:
    """Return what is wrong with (T, K, 2) keypoints, NaN where there are none, in words; None for a person."""
    seen = np.isfinite(points).all(axis=-1)
    if not seen.all():
        return f'lacks {(~seen).sum():,} of {seen.size:,} keypoints: interpolate them, as data/prepare_data_2d.py does'
    if np.ptp(points) < NO_PIXELS:
        return (f'has coordinates from {points.min():.2f} to {points.max():.2f}, expected pixels: multiply them back '
                f'to the size of the picture')
    fit, (other, better) = evenness(points, layout), better_layout(points, layout)
    if fit < PLAUSIBLE or better > fit + 0.15:
        instead = f': they fit layout {other}, set layout_name to it in metadata' if better > PLAUSIBLE else ''
        return f'has bones of impossible relative lengths for layout {layout.name} (evenness {fit:.2f}){instead}'
    outside = ((points < 0) | (points > size)).any(axis=-1).mean()
    if outside > OUTSIDE:
        return (f'has {outside:.0%} of its keypoints outside of a picture of {size[0]}×{size[1]}: correct w and h in '
                f'video_metadata')
    return None


def views_of(dataset: PoseDataset, subject: str) -> list[View]:
    """Return up to FRAMES frames, evenly spread, of every take of a subject by every camera.

    What `fit_problems` tells of is left out: takes without one side, frames that are missing or not finite.
    """
    views = []
    for take, motion in dataset.positions[subject].items():
        rows = np.unique(np.linspace(0, len(motion) - 1, FRAMES).round().astype(int))
        for number, camera, joints, pixels in dataset.bodies(subject, take, rows):
            # Where each camera's view is a take of its own, the end of the take's name says which camera it is.
            lens = take.split(' ')[-1] if len(dataset.cameras[subject]) == 1 else number
            views.append(View(subject, take, lens, to_body(joints, dataset.skeleton), to_body(pixels, dataset.layout),
                              (camera.width, camera.height), camera.intrinsic))
    return views
