"""The data sets by the name that -d gives them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import FileError, FlagError

if TYPE_CHECKING:
    from common.datasets.poses import Count, PoseDataset


@dataclass(frozen=True)
class _Entry:
    """A data set. Its module is imported when it is used, so that the command line knows the names at once.

    Attributes:
        module: of this package, in which `load` reads it, from the files that `files_of` names.
        keypoints: what it is used with unless -k says otherwise.
        origin: where its files come from; None where it needs none.
        load: the name of its reader in the module.
        counted: whether the module's `counts` tells how much of what a whole copy holds is there.
        keypoints_known: all keypoints there can be, where that is known.
        one_file: whether all of it lies in one file, which the module's `path_of` names.
        split: whether training and test subjects lie in files of their own, which the module's `paths` names.
        marked: whether test frames are marked, so that only some count, and PCK and AUC are measured.
        truth: whether there is 3D; a data set without can be rendered and exported only.
        protocol: its only test protocol, where that is another than the usual two.
        settings: what its own test says otherwise than a model's recipe, by field of the configuration.
        lengthened: how many times as long its bones are made for --views random, by the joint where they end, where
            that is not where people have it.
    """

    module: str
    keypoints: str | None
    origin: str | None
    load: str = 'load'
    counted: bool = False
    keypoints_known: tuple[str, ...] | None = None
    one_file: bool = False
    split: bool = False
    marked: bool = False
    truth: bool = True
    protocol: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    lengthened: dict[str, float] = field(default_factory=dict)

    def of_module(self, name: str) -> Any:
        """Return a function of the data set's module."""
        return getattr(importlib.import_module(f'common.datasets.{self.module}'), name)

    def counts(self, dataset: PoseDataset) -> list[Count]:
        """Return how much of what a whole copy holds is there; nothing where that is not known."""
        return self.of_module('counts')(dataset) if self.counted else []


def _humaneva(joints: int) -> str:
    return (f'ask for HumanEva-I at http://humaneva.is.tue.mpg.de, make converted_{joints}j with its MATLAB toolbox '
            'and run data/prepare_data_humaneva.py on that folder (detections: data/prepare_data_2d.py)')


DATASETS = {
    'h36m': _Entry('h36m', 'cpn_ft_h36m_dbb', 'ask for Human3.6M at http://vision.imar.ro/human3.6m and run '
                   'data/prepare_data_h36m.py on its folder (detections: data/prepare_data_2d.py), or say with --data '
                   "where files in VideoPose3D's npz layout are", counted=True),
    'humaneva15': _Entry('humaneva', 'gt', _humaneva(15), 'load15', counted=True),
    'humaneva20': _Entry('humaneva', 'gt', _humaneva(20), 'load20', counted=True),
    '3dhp': _Entry('mpi_inf_3dhp', 'gt', 'ask for MPI-INF-3DHP at http://vcai.mpi-inf.mpg.de/3dhp-dataset and run '
                   'data/prepare_data_3dhp.py on its folder', counted=True, keypoints_known=('gt', 'gt_ori'),
                   split=True, marked=True, settings={'root': 'zero'}),
    'cmu': _Entry('cmu', 'noisy', 'fetch ASF/AMC files from http://mocap.cs.cmu.edu and run '
                  'data/prepare_data_cmu.py on their folder', lengthened={
                      # CMU's forearms end before the wrist and its heads at the ears. Drillis and Contini (1966), of
                      # stature: forearm 0.146 and from the shoulders to the top of the head 0.182. By their legs,
                      # trunks and upper arms, CMU's people are 1.7 m tall; 0.186 and 0.224 m are in the files.
                      'wrist': 1.34, 'head': 1.85}),
    'motion3d': _Entry('motion3d', 'h36m_sh_conf_cam_source_final', "take MotionBERT's file of that name, or make one "
                       'of npz files with data/prepare_data_motion3d.py and name it with -k', counted=True,
                       one_file=True, protocol='2.5d', settings={'root': 'zero'}),
    'synthetic': _Entry('synthetic', 'gt', None, keypoints_known=('gt', 'noisy')),
    'custom': _Entry('custom', None, 'run a detector on your videos and data/prepare_data_2d.py on its output',
                     truth=False),
}

DEFAULT_DATASET = 'h36m'


def files_of(name: str, folder: Path, keypoints: str | None = None) -> list[Path]:
    """Return the files that the data set called `name` is read from, there or not; none where it needs none."""
    entry = DATASETS[name]
    keypoints = keypoints_for(name, keypoints)
    if entry.origin is None:
        return []
    if entry.split and keypoints:
        return list(entry.of_module('paths')(folder, keypoints))
    if entry.one_file and keypoints:
        return [entry.of_module('path_of')(folder, keypoints)]
    path_2d = folder / f'data_2d_{name}_{keypoints}.npz'
    return [folder / f'data_3d_{name}.npz', path_2d] if entry.truth else [path_2d]


def missing(name: str, path: Path) -> str | None:
    """Return one sentence on a file that is not there, which and where to get it; None for one that is."""
    if path.exists():
        return None
    if DATASETS[name].one_file:
        if path.with_suffix('').is_dir():
            return (f'{path} is missing, and {path.with_suffix("")} is a folder of slices, which tell neither action '
                    f'nor scale and are not read: take the file that they were cut from')
        others = sorted(p.stem for p in path.parent.glob('*.pkl'))
        found = f' (the folder has -k {", ".join(others)})' if others else ''
        return f'{path} is missing{found}: {DATASETS[name].origin}'
    others = sorted(p.stem.removeprefix(f'data_2d_{name}_') for p in path.parent.glob(f'data_2d_{name}_*.npz'))
    found = f' (the folder has -k {", ".join(others)})' if others and '2d' in path.name else ''
    return f'{path} is missing{found}: {DATASETS[name].origin}; -d synthetic needs no file'


def keypoints_for(name: str, asked: str | None) -> str | None:
    """Return which keypoints of a data set are read: those asked for, or the usual ones; None where it has no files.

    Raises FlagError where there are no usual ones.
    """
    keypoints = asked or DATASETS[name].keypoints
    if keypoints is None and DATASETS[name].origin is not None:
        raise FlagError(f'-d {name} has no usual keypoints: say which 2D file is read with -k NAME')
    return keypoints


def check_files(name: str, folder: Path, keypoints: str | None = None, training: bool = True) -> None:
    """Raise FileError for a file of a data set that is not there, and FlagError for keypoints that it does not have.

    Args:
        training: False where only test subjects are asked for: a file of training subjects alone is then not needed.
    """
    entry = DATASETS[name]
    keypoints = keypoints_for(name, keypoints)
    if entry.keypoints_known and keypoints not in entry.keypoints_known:
        raise FlagError(f'-d {name} has no keypoints {keypoints}; there are {", ".join(entry.keypoints_known)}')
    test_only = entry.split and not training
    for path in files_of(name, folder, keypoints)[test_only:]:
        if problem := missing(name, path):
            raise FileError(problem)


def load_dataset(name: str, folder: Path, keypoints: str | None = None, training: bool = True) -> PoseDataset:
    """Read the data set called `name` with its 2D file called `keypoints` (default: the usual one) from a folder.

    Args:
        training: False where only test subjects are asked for: a file of training subjects alone is then not read.

    Raises:
        FileError: a file is missing (the message says where to get it), broken or of another form.
        FlagError: the data set has no such keypoints.
    """
    check_files(name, folder, keypoints, training)
    entry = DATASETS[name]
    test_only = entry.split and not training
    return entry.of_module(entry.load)(folder, keypoints or entry.keypoints, **{'training': False} if test_only else {})
