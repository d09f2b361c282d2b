"""The data sets by the name that -d gives them."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from common.datasets import cmu, h36m, synthetic
from common.datasets.poses import PoseDataset, Sequence, action_name
from common.errors import FileError, FlagError

__all__ = ['DATASETS', 'PoseDataset', 'Sequence', 'action_name', 'load_dataset']


@dataclass(frozen=True)
class _Entry:
    """A data set's module, the keypoints it is used with unless -k says otherwise, and where its files come from."""

    module: ModuleType
    keypoints: str
    origin: str | None


DATASETS = {
    'h36m': _Entry(h36m, 'cpn_ft_h36m_dbb', 'ask for Human3.6M at http://vision.imar.ro/human3.6m, convert it to '
                   "VideoPose3D's npz layout (README, Data sets) and say with --data where the npz files are"),
    'cmu': _Entry(cmu, 'noisy', 'fetch ASF/AMC files from http://mocap.cs.cmu.edu and run data/prepare_data_cmu.py on '
                  'their folder'),
    'synthetic': _Entry(synthetic, 'gt', None),
}


def load_dataset(name: str, folder: Path, keypoints: str | None = None) -> PoseDataset:
    """Read the data set called `name` with its 2D file called `keypoints` (default: the usual one) from a folder.

    Raises:
        FileError: a file is missing (the message says where to get it), broken or of another form.
        FlagError: the synthetic data set has no such keypoints.
    """
    entry = DATASETS[name]
    keypoints = keypoints or entry.keypoints
    if entry.origin is None:
        if keypoints not in entry.module.KEYPOINTS:
            raise FlagError(f'-d {name} has no keypoints {keypoints}; there are {", ".join(entry.module.KEYPOINTS)}')
        return entry.module.load(folder, keypoints)
    for path in (folder / f'data_3d_{name}.npz', folder / f'data_2d_{name}_{keypoints}.npz'):
        if not path.exists():
            others = sorted(p.stem.removeprefix(f'data_2d_{name}_') for p in folder.glob(f'data_2d_{name}_*.npz'))
            found = f' (the folder has -k {", ".join(others)})' if others and '2d' in path.name else ''
            raise FileError(f'{path} is missing{found}: {entry.origin}; -d synthetic needs no file')
    return entry.module.load(folder, keypoints)
