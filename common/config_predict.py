"""The flags of --predict, a section of the configuration in `common/config.py`."""

from dataclasses import dataclass

from common.detectors import CAMERA, DEFAULT_DETECTOR, DETECTORS, camera_of
from common.exports import EXPORTS
from common.flag import PREDICT, file_ending, flag, names_of, number, text
from common.keypoints.known import LAYOUTS, layout_or_file

EVERYBODY = 'all'  # of --person


def person_or_all(given: str) -> int | str:
    """Return the number of a person, or EVERYBODY."""
    if given == EVERYBODY:
        return given
    try:
        return int(number(int, 0)(given))
    except ValueError as error:
        raise ValueError(f'{error}; or {EVERYBODY}') from None


def source_of(given: str) -> str:
    """Return the name of a file, a folder or a camera. Raises ValueError for a camera without a number."""
    if given.startswith(CAMERA) and camera_of(given) is None:
        raise ValueError(f'expected {CAMERA}0, or another number of a camera, got {given!r}')
    return text(given)


@dataclass(frozen=True)
class Predict:
    """your own keypoints"""

    predict: str | None = flag('--predict', read=source_of, metavar='INPUT', starts=True, commands=(PREDICT,),
                               help='lift a video, a folder of videos, a camera (camera:0), or 2D keypoints (npz, npy, '
                               'a detector\'s JSON, or its folder of a file per frame) with the checkpoint of '
                               '--evaluate, or the shipped one')
    live: bool = flag('--live', default=False, kind='yes', commands=(PREDICT,), help='play the video of --predict at '
                      'its own speed and lift it as a camera is: each picture from those before it, at once; pictures '
                      'that come too fast are dropped')
    npz: str | None = flag('--output', read=file_ending('.npz'), metavar='FILE.npz', commands=(PREDICT,),
                           help='where --predict writes poses in 3D (default: for clip.mp4, clip.npz beside it)')
    csv: str | None = flag('--csv', read=text, metavar='FILE', commands=(PREDICT,),
                           help='also write them as a table, a line per frame')
    export: str | None = flag('--export', read=file_ending(*EXPORTS), metavar='FILE', commands=(PREDICT,),
                              help='also write them for other programs: .trc or .c3d, the markers of OpenSim and '
                              'other biomechanics; .bvh or .glb, the bones of animators and viewers')
    detector: str = flag('--detector', default=DEFAULT_DETECTOR, choices=DETECTORS, commands=(PREDICT,), help='finds '
                         'the keypoints in a video: MoveNet, shipped, one person; or a model of rtmlib, many people')
    detector_files: tuple[str, ...] | None = flag('--detector-files', read=names_of, metavar='A,B', commands=(PREDICT,),
                                                  help="rtmlib's .onnx: of people and of keypoints, or of both")
    layout: str = flag('--layout', default='auto', read=layout_or_file, metavar='NAME', commands=(PREDICT,),
                       help=f'the order of the keypoints: {", ".join(LAYOUTS)}, or a text file with the name of a '
                       'joint on each line (auto: as the file says, by the lengths of bones, and by the kind of file)')
    image_size: tuple[float, float] | None = flag(
        '--image-size', read=number(float, 1, 1e6), nargs=2, metavar=('W', 'H'), commands=(PREDICT,),
        help='of the picture in pixels, where the file does not say')
    fps: float | None = flag('--fps', read=number(float, 0.001, 1e5), metavar='N', commands=(PREDICT,),
                             help="frames per second of the video (default: the file's, that of --viz-video, or 30)")
    person: int | str | None = flag('--person', read=person_or_all, metavar='N', commands=(PREDICT,), help="the file's "
                                    'own number of a person, else a rank by score (default: the most frequent, or the '
                                    'best); all: everybody, a clip_N.npz each')
    min_score: float | None = flag('--min-score', read=number(float, 0), metavar='X', commands=(PREDICT,),
                                   help='keypoints with less are interpolated in time (default 0.3; 0 for Detectron2)')
    zoom: float | None = flag('--zoom', read=number(float, 0.001, 1000), metavar='X', commands=(PREDICT,),
                              help='scale the person in the picture (default: to a usual size, where far from it)')
    smooth: float | None = flag('--smooth', read=number(float, 0.1, 1e5), metavar='HZ', commands=(PREDICT,),
                                help='take out what is faster: a Butterworth filter without delay, or with --causal a '
                                'One-Euro filter, whose cut-off at rest this is (default: not smoothed; 6 is usual for '
                                'people who walk)')
    trajectory: bool = flag('--trajectory', default=False, kind='yes', commands=(PREDICT,), help='estimate where the '
                            'person stands, by --intrinsics or --fov; otherwise the feet are put on the floor')
    upright: bool = flag('--upright', default=False, kind='yes', commands=(PREDICT,), help='turn the world so that '
                         'bodies are upright on average, for a camera that looks up or down, or is rolled')
    intrinsics: tuple[float, float, float, float] | None = flag(
        '--intrinsics', read=number(float, 0.001, 1e7), nargs=4, metavar=('FX', 'FY', 'CX', 'CY'), excludes=('fov',),
        commands=(PREDICT,), help='of the lens, in pixels')
    fov: float | None = flag('--fov', read=number(float, 1, 179), metavar='DEGREES', commands=(PREDICT,),
                             help='horizontal field of view')
    as_is: bool = flag('--as-is', default=False, kind='yes', commands=(PREDICT,),
                       help='do not refuse keypoints that look like a mistake')
