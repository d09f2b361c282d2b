"""The data sets by the name that -d gives them."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from common.datasets import cmu, custom, h36m, mpi_inf_3dhp, synthetic
from common.datasets.poses import PoseDataset, Sequence, action_name
from common.errors import FileError, FlagError

__all__ = ['DATASETS', 'PoseDataset', 'Sequence', 'action_name', 'load_dataset']


@dataclass(frozen=True)
class _Entry:
    """A data set's module, the keypoints it is used with unless -k says otherwise, and where its files come from.

    Where `keypoints_known` names some, there are no others. With `split_files`, training and test subjects lie in files
    of their own. Where test frames are `marked`, only some count, and PCK and AUC are measured. Without `truth` there
    is no 3D: such a data set can be rendered and exported only.
    """

    module: ModuleType
    keypoints: str | None
    origin: str | None
    keypoints_known: tuple[str, ...] | None = None
    split_files: bool = False
    marked: bool = False
    truth: bool = True


DATASETS = {
    'h36m': _Entry(h36m, 'cpn_ft_h36m_dbb', 'ask for Human3.6M at http://vision.imar.ro/human3.6m, convert it '
                   'with data/prepare_data_h36m.py (README, Data sets) and say with --data where the npz files are'),
    '3dhp': _Entry(mpi_inf_3dhp, 'gt', 'ask for MPI-INF-3DHP at http://vcai.mpi-inf.mpg.de/3dhp-dataset and run '
                   'data/prepare_data_3dhp.py on its folder', mpi_inf_3dhp.KEYPOINTS, split_files=True, marked=True),
    'cmu': _Entry(cmu, 'noisy', 'fetch ASF/AMC files from http://mocap.cs.cmu.edu and run data/prepare_data_cmu.py on '
                  'their folder'),
    'synthetic': _Entry(synthetic, 'gt', None, synthetic.KEYPOINTS),
    'custom': _Entry(custom, None, 'run a detector on your videos and data/prepare_data_2d.py on its output',
                     truth=False),
}


def files_of(name: str, folder: Path, keypoints: str) -> tuple[Path, ...]:
    """The files of a data set: 3D and 2D, or, where it has split files, training and test; without 3D, one of 2D."""
    if DATASETS[name].split_files:
        return DATASETS[name].module.paths(folder, keypoints)
    path_2d = folder / f'data_2d_{name}_{keypoints}.npz'
    return (folder / f'data_3d_{name}.npz', path_2d) if DATASETS[name].truth else (path_2d,)


def load_dataset(name: str, folder: Path, keypoints: str | None = None, training: bool = True) -> PoseDataset:
    """Read the data set called `name` with its 2D file called `keypoints` (default: the usual one) from a folder.

    Args:
        training: False where only test subjects are asked for: a file of training subjects alone is then not read.

    Raises:
        FileError: a file is missing (the message says where to get it), broken or of another form.
        FlagError: the data set has no such keypoints.
    """
    entry = DATASETS[name]
    keypoints = keypoints or entry.keypoints
    if entry.keypoints_known and keypoints not in entry.keypoints_known:
        raise FlagError(f'-d {name} has no keypoints {keypoints}; there are {", ".join(entry.keypoints_known)}')
    if entry.origin is None:
        return entry.module.load(folder, keypoints)
    test_only = entry.split_files and not training
    for path in files_of(name, folder, keypoints)[test_only:]:
        if not path.exists():
            others = sorted(p.stem.removeprefix(f'data_2d_{name}_') for p in folder.glob(f'data_2d_{name}_*.npz'))
            found = f' (the folder has -k {", ".join(others)})' if others and '2d' in path.name else ''
            raise FileError(f'{path} is missing{found}: {entry.origin}; -d synthetic needs no file')
    return entry.module.load(folder, keypoints, **{'training': False} if test_only else {})
