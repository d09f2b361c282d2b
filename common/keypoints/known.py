"""Layouts that detectors and data sets have, beyond those that lifters are trained on.

Parents only matter to lifters, so that here every point hangs on the first. Points of hands, faces and other parts that
no lifter reads are called `extra_N` after their place. Each layout names where its order is written down.
"""

from pathlib import Path

from common.skeleton import (
    BODY25,
    BODY25B,
    COCO,
    H36M,
    H36M16,
    HALPE26,
    HUMANEVA15,
    MPI_INF_3DHP,
    MPII,
    Skeleton,
)

_FEET = tuple(f'{side}_{part}' for side in ('left', 'right') for part in ('big_toe', 'small_toe', 'heel'))


def flat(name: str, joints: tuple[str, ...]) -> Skeleton:
    """Return a layout whose points all hang on the first."""
    return Skeleton(name, joints, (-1, *[0] * (len(joints) - 1)))


def _extended(name: str, body: tuple[str, ...], count: int) -> Skeleton:
    """Return a layout that begins with a body and goes on with points of hands and faces."""
    return flat(name, (*body, *(f'extra_{n}' for n in range(len(body), count))))


# OpenPose --model_pose COCO, also lightweight OpenPose, tf-pose, ControlNet and AlphaPose's formats open and cmu:
# https://github.com/CMU-Perceptual-Computing-Lab/openpose/blob/master/doc/02_output.md
OPENPOSE18 = flat('openpose18', (
    'nose', 'thorax', 'right_shoulder', 'right_elbow', 'right_wrist', 'left_shoulder', 'left_elbow', 'left_wrist',
    'right_hip', 'right_knee', 'right_ankle', 'left_hip', 'left_knee', 'left_ankle', 'right_eye', 'left_eye',
    'right_ear', 'left_ear'))
# OpenPose --model_pose MPI; point 14 is the chest, on the trunk's axis.
MPI15 = flat('mpi15', (
    'head', 'thorax', 'right_shoulder', 'right_elbow', 'right_wrist', 'left_shoulder', 'left_elbow', 'left_wrist',
    'right_hip', 'right_knee', 'right_ankle', 'left_hip', 'left_knee', 'left_ankle', 'spine'))
# OpenPose's BODY_135: BODY_25B, then hands and face.
BODY135 = _extended('body135', BODY25B.joints, 135)
# CanonPose's 16: https://github.com/bastianwandt/CanonPose
CANONPOSE16 = flat('canonpose16', (
    'right_hip', 'right_knee', 'right_ankle', 'left_hip', 'left_knee', 'left_ankle', 'hip', 'thorax', 'neck', 'head',
    'right_shoulder', 'right_elbow', 'right_wrist', 'left_shoulder', 'left_elbow', 'left_wrist'))
# Kinect v2 and NTU RGB+D: https://github.com/shahroudy/NTURGB-D
KINECT25 = flat('kinect25', (
    'hip', 'spine', 'neck', 'head', 'left_shoulder', 'left_elbow', 'left_wrist', 'left_hand', 'right_shoulder',
    'right_elbow', 'right_wrist', 'right_hand', 'left_hip', 'left_knee', 'left_ankle', 'left_foot', 'right_hip',
    'right_knee', 'right_ankle', 'right_foot', 'thorax', 'left_hand_tip', 'left_thumb', 'right_hand_tip',
    'right_thumb'))
# easy_ViTPose's coco_25: https://github.com/JunkyByte/easy_ViTPose
COCO25 = flat('coco25', (
    'nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear', 'thorax', 'left_shoulder', 'right_shoulder', 'left_elbow',
    'right_elbow', 'left_wrist', 'right_wrist', 'left_hip', 'right_hip', 'hip', 'left_knee', 'right_knee', 'left_ankle',
    'right_ankle', *_FEET))
# PoseTrack-18: COCO with head_bottom and head_top in place of the eyes: https://posetrack.net
POSETRACK18 = flat('posetrack18', ('nose', 'thorax', 'head', *COCO.joints[3:]))
# CrowdPose, AI Challenger and Leeds Sports Poses: 14 each, as in MMPose's configs/_base_/datasets
_ARMS_LEGS = tuple(f'{side}_{joint}' for joint in ('shoulder', 'elbow', 'wrist', 'hip', 'knee', 'ankle')
                   for side in ('left', 'right'))
CROWDPOSE14 = flat('crowdpose14', (*_ARMS_LEGS, 'head', 'thorax'))
AIC14 = flat('aic14', (
    *(f'{side}_{joint}' for joints in (('shoulder', 'elbow', 'wrist'), ('hip', 'knee', 'ankle'))
      for side in ('right', 'left') for joint in joints), 'head', 'thorax'))
LSP14 = flat('lsp14', (
    'right_ankle', 'right_knee', 'right_hip', 'left_hip', 'left_knee', 'left_ankle', 'right_wrist', 'right_elbow',
    'right_shoulder', 'left_shoulder', 'left_elbow', 'left_wrist', 'thorax', 'head'))
# MediaPipe and BlazePose: https://ai.google.dev/edge/mediapipe/solutions/vision/pose_landmarker
MEDIAPIPE33 = flat('mediapipe33', (
    'nose', 'left_eye_inner', 'left_eye', 'left_eye_outer', 'right_eye_inner', 'right_eye', 'right_eye_outer',
    'left_ear', 'right_ear', 'left_mouth', 'right_mouth', *(f'{side}_{joint}' for joint in (
        'shoulder', 'elbow', 'wrist', 'pinky', 'index', 'thumb', 'hip', 'knee', 'ankle', 'heel', 'big_toe')
        for side in ('left', 'right'))))
# COCO-WholeBody: https://github.com/jin-s13/COCO-WholeBody; Halpe: https://github.com/Fang-Haoshu/Halpe-FullBody
WHOLEBODY133 = _extended('wholebody133', (*COCO.joints, *_FEET), 133)
HALPE68 = _extended('halpe68', HALPE26.joints, 68)  # with hands
HALPE94 = _extended('halpe94', HALPE26.joints, 94)  # with a face
HALPE136 = _extended('halpe136', HALPE26.joints, 136)
# Sapiens' 308 (goliath): https://github.com/facebookresearch/sapiens, configs/_base_/datasets/goliath.py
_GOLIATH = {**dict(enumerate((*(name for name in COCO.joints if 'wrist' not in name), *_FEET))), 41: 'right_wrist',
            62: 'left_wrist'}
SAPIENS308 = flat('sapiens308', tuple(_GOLIATH.get(n, f'extra_{n}') for n in range(308)))

# All that --predict knows, the most common first: an order that only lists and error messages follow.
LAYOUTS: dict[str, Skeleton] = {layout.name: layout for layout in (
    COCO, H36M, HALPE26, BODY25, BODY25B, MPII, MPI_INF_3DHP, H36M16, OPENPOSE18, WHOLEBODY133, HALPE136, MEDIAPIPE33,
    COCO25, KINECT25, POSETRACK18, CANONPOSE16, MPI15, HUMANEVA15, CROWDPOSE14, AIC14, LSP14, HALPE68, HALPE94, BODY135,
    SAPIENS308)}

# Other spellings of joints, as files that name their keypoints have them; compared without case, blanks, _ and -.
_ALIASES = {
    'hip': 'pelvis, root, midhip, hips, centerhip, hipcenter, spinebase, bottomtorso',
    'thorax': 'midshoulder, neckbase, headbottom, spineshoulder, shouldercenter, uppertorso',
    'spine': 'torso, belly, chest, spinemid, abdomen, bodycenter',
    'neck': 'upperneck, headneck',
    'head': 'headtop, tophead, topofhead, topheadpoint',
    'nose': 'nosetip',
}
_SIDED = {'left': ('left', 'l'), 'right': ('right', 'r')}
_PARTS = {'shoulder': ('shoulder', 'sho'), 'elbow': ('elbow', 'elb'), 'wrist': ('wrist', 'wri'), 'hip': ('hip',),
          'knee': ('knee', 'kne'), 'ankle': ('ankle', 'ank'), 'eye': ('eye',), 'ear': ('ear',), 'heel': ('heel',),
          'big_toe': ('bigtoe', 'footindex', 'toe'), 'small_toe': ('smalltoe',)}


def layout_or_file(given: str) -> str:
    """Return the name of a layout, `auto`, or of a file, which may name the keypoints of another layout."""
    if given == 'auto' or given in LAYOUTS or Path(given).is_file():
        return given
    raise ValueError(f'expected auto, {", ".join(LAYOUTS)}, or a text file with the name of a joint on each line, got '
                     f'{given!r}')


def _plain(name: str) -> str:
    return ''.join(letter for letter in name.lower() if letter.isalnum())


_NAMES = {
    **{_plain(alias): name for name, aliases in _ALIASES.items() for alias in (name, *aliases.split(', '))},
    **{form: f'{side}_{part}' for side, sides in _SIDED.items() for part, parts in _PARTS.items()
       for s in sides for p in parts for form in (s + p, p + s)}}


def joint_name(spelled: str) -> str | None:
    """Return the name of the shared vocabulary for a spelling of a joint's name; None for an unknown one."""
    return _NAMES.get(_plain(spelled))


def with_base_of_neck(joints: list[str]) -> list[str]:
    """Return names in which `neck` means the base of the neck (thorax) where they have no other word for it."""
    return [('thorax' if name == 'neck' else name) for name in joints] if 'thorax' not in joints else joints


def layout_of_names(name: str, spelled: list[str]) -> Skeleton | None:
    """Return the layout of keypoints that a file names, None where the limbs are not among them."""
    joints: list[str] = []
    for place, word in enumerate(spelled):
        joint = joint_name(word)
        joints.append(joint if joint and joint not in joints else f'extra_{place}')
    joints = with_base_of_neck(joints)
    if not set(_ARMS_LEGS) <= set(joints):
        return None
    same = next((layout for layout in LAYOUTS.values() if layout.joints == tuple(joints)), None)
    return same or flat(name, tuple(joints))
