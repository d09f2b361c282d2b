"""TRC, the marker files of OpenSim: a tab-separated table of positions, here in metres with y up.

Its head is that of Motion Analysis' format, version 4, as OpenSim and Pose2Sim write it: what the columns are, rates,
counts and units, then the name of each marker above its X, Y and Z.
"""

from pathlib import Path

import numpy as np

from common.exports.motion import Motion
from common.storage.files import one_line

# Joints that Pose2Sim's markers for OpenSim (of HALPE_26 and BODY_25B) call otherwise than by their own names.
MARKERS = {'thorax': 'Neck', 'neck': 'UpperNeck'}


def marker(joint: str) -> str:
    """Return what Pose2Sim calls a joint: `right_knee` is RKnee, `thorax` is Neck."""
    if joint in MARKERS:
        return MARKERS[joint]
    side, _, rest = joint.partition('_')
    start = {'left': 'L', 'right': 'R'}.get(side)
    words = rest if start else joint
    return (start or '') + ''.join(word.capitalize() for word in words.split('_'))


def write(path: Path, motion: Motion, name: str) -> None:
    """Write a motion to a file that will be called `name`."""
    frames, joints = motion.positions.shape[:2]
    rate = f'{motion.fps:.6g}'
    names = [marker(joint) for joint in motion.skeleton.joints]
    lines = [
        ['PathFileType', '4', '(X/Y/Z)', one_line(name)],
        ['DataRate', 'CameraRate', 'NumFrames', 'NumMarkers', 'Units', 'OrigDataRate', 'OrigDataStartFrame',
         'OrigNumFrames'],
        [rate, rate, str(frames), str(joints), 'm', rate, '1', str(frames)],
        ['Frame#', 'Time', *(cell for marker_name in names for cell in (marker_name, '', ''))],
        ['', '', *(f'{axis}{number}' for number in range(1, joints + 1) for axis in 'XYZ')],
        [],
    ]
    rows = np.column_stack([np.arange(1, frames + 1), motion.seconds, motion.positions.reshape(frames, -1)])
    with open(path, 'w', encoding='utf-8', newline='\n') as file:
        file.writelines('\t'.join(line) + '\n' for line in lines)
        np.savetxt(file, rows, fmt=['%d', '%.6f', *['%.6f'] * (3 * joints)], delimiter='\t')
