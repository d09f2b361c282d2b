"""A user's own 2D keypoints: from a detector's files to one person's track in the layout that a lifter reads.

`json_files` and `array_files` read files, `track` picks one person, `layouts` recognises the layout and converts it,
`mistakes` refuses what cannot be a person in pixels, and `gaps` fills in what the detector did not see.
"""

from pathlib import Path

from common.errors import FileError
from common.keypoints import array_files, json_files
from common.keypoints.track import Track

__all__ = ['Track', 'read_track']


def read_track(path: Path, person: int | None = None, video: str | None = None) -> Track:
    """Read one person's track from a file, or from a folder of OpenPose's files.

    Args:
        person: the number that the file gives a person; in files that number nobody, a rank by score, from 1. None for
            the most frequent person, or the best score.
        video: its name, where a file holds several.

    Raises FileError for a file that is missing, broken, empty or of an unknown tool, FlagError for a person or video
    that is not in it.
    """
    if path.is_dir():
        return json_files.read_folder(path, person)
    if not path.exists():
        raise FileError(f'{path} is missing')
    if path.suffix == '.json':
        return json_files.read_file(path, person)
    if path.suffix in ('.npz', '.npy'):
        return array_files.read(path, person, video)
    raise FileError(f'{path}: expected .json, .npz, .npy or a folder of .json files')
