"""A user's own 2D keypoints: from a detector's files to one person's track in the layout that a lifter reads.

`json_files` and `array_files` read, `track` picks one person, `layouts` finds out what the points are and renames them,
`mistakes` refuses what cannot be a person in pixels, `gaps` fills what the detector did not see.
"""

from pathlib import Path

from common.errors import FileError
from common.keypoints import array_files, json_files
from common.keypoints.track import Track

__all__ = ['Track', 'read_track']


def read_track(path: Path, person: int | None = None, video: str | None = None) -> Track:
    """One person's track of a file, or of a folder of OpenPose's files.

    Args:
        person: the file's own number of a person, or the rank of a score; None for the most frequent, or the best.
        video: which one, where a file holds several.

    Raises FileError for what is missing, broken, empty or of another tool; FlagError for a person or video that is not
    there.
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
