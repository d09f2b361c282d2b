"""Say what to do with files that are not read: tables, pickles, HDF5, videos and 3D."""

from pathlib import Path

from common.keypoints.values import quoted

SAVE = ('save its keypoints as npy, (frames, keypoints, 2 or 3) in pixels, and write their names into a text file for '
        '--layout')
REMEDIES = {
    ('.h5', '.hdf5'): f'HDF5, as DeepLabCut and SLEAP write it: {SAVE}',
    ('.slp',): f'a SLEAP project: {SAVE}',
    ('.pkl', '.pickle', '.pt', '.pth'): 'a pickle, which can run programs when it is opened and is therefore not read: '
                                        'open it where it was made, and save the keypoints as npy',
    ('.mat',): 'a MATLAB file: save the keypoints as npy, (frames, keypoints, 2 or 3)',
    ('.mp4', '.avi', '.mov', '.mkv', '.webm'): 'a video, whose keypoints --predict looks for',
    ('.gif', '.jpg', '.jpeg', '.png'): 'a picture: give --predict the video, or what a detector found in it',
    ('.bvh', '.trc', '.c3d', '.glb', '.fbx', '.amc'): 'motion in 3D, of which there is nothing to lift',
    ('.xml', '.yml', '.yaml'): 'of another tool: save the keypoints as npy, (frames, keypoints, 2 or 3)',
}
EXPECTED = ('expected a video (.mp4, .mov, …), .json, .npz, .npy or a folder of .json files, or of .txt files of '
            'Ultralytics')


def remedy(path: Path) -> str:
    """Return a sentence on a file of a kind that is not read."""
    suffix = path.suffix.lower()
    if suffix in ('.csv', '.tsv', '.txt'):
        return f'{quoted(path)} is {_table(path)}'
    what = next((words for suffixes, words in REMEDIES.items() if suffix in suffixes), None)
    return f'{quoted(path)} is {what}' if what else f'{quoted(path)}: {EXPECTED}'


def _table(path: Path) -> str:
    if path.exists() and not path.is_file():
        return 'neither a file nor a folder of files'
    try:
        with open(path, 'rb') as file:
            head = file.read(1 << 16).decode('utf-8', 'replace').lower()
    except OSError:
        head = ''
    if 'bodyparts' in head and 'scorer' in head:
        return f"DeepLabCut's table: {SAVE}"
    if 'instance.score' in head or head.startswith('track,frame_idx'):
        return f"SLEAP's table: {SAVE}"
    return f'a table: {SAVE}'
