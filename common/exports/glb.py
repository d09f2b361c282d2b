"""GLB, glTF 2.0 in one binary file, for viewers, game engines and animators: bones that move, and a figure on them.

Y is up, the unit is the metre and the face looks towards +z, as glTF has it. Bones are the nodes of a skeleton, as
rig.py finds them, with a node where each limb ends. The rest pose is a T with the hips at 0; without the animation, the
first frame is shown. Every frame has its own time. The figure has an octahedron a bone, in the colours of our pictures.

Letters: T frames, J nodes (bones and ends of limbs), N numbers of one item of an array.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pygltflib as gltf

from common.errors import FileError
from common.exports.motion import Motion, since_start
from common.exports.rig import Bone, bones_of
from common.geometry import quaternion
from common.storage.files import one_line

KINDS = {1: gltf.SCALAR, 3: gltf.VEC3, 4: gltf.VEC4, 16: gltf.MAT4}  # by N
COMPONENTS = {'float32': gltf.FLOAT, 'uint16': gltf.UNSIGNED_SHORT, 'uint8': gltf.UNSIGNED_BYTE}
# Linear red, green and blue of the figure's left and right and of its middle: glTF does not take sRGB.
COLOURS = {'Left': (0.0, 0.168, 0.445), 'Right': (0.791, 0.347, 0.0), '': (0.033, 0.033, 0.033)}
# Of the corners of an octahedron: its beginning, its end, and four around it in the order of a right hand's fingers.
FACES = [corner for i in range(4) for corner in (1, 2 + i, 2 + (i + 1) % 4, 0, 2 + (i + 1) % 4, 2 + i)]
THICK, WAIST = 0.15, 0.2  # of its length: how far its corners are from its axis, and where they lie along it


def write(path: Path, motion: Motion, name: str) -> None:
    """Write a motion to a file that will be called `name`. Raises FileError for a body that has no limbs."""
    try:
        root, bones = bones_of(motion.skeleton, motion.positions)
    except ValueError as error:
        raise FileError(f'cannot write {name}: {error}') from None
    arrays, called = _Arrays(), one_line(name)
    turned = [_rotations(bone.turned) for bone in bones]
    nodes, places = _skeleton(bones, root[0], [rotations[0] for rotations in turned])
    mesh, joints = _figure(arrays, bones, places), list(range(len(nodes)))
    bind = np.tile(np.eye(4), (len(nodes), 1, 1))
    bind[:, 3, :3] = -places  # columns first
    skin = gltf.Skin(joints=joints, skeleton=0, inverseBindMatrices=arrays.add(bind.reshape(-1, 16)))
    nodes.append(gltf.Node(name='Figure', mesh=0, skin=0))
    animation = _animation(arrays, since_start(motion), root, turned)
    animation.name = called
    content = gltf.GLTF2(
        asset=gltf.Asset(generator='KTPFormer run_ktpformer.py'), scene=0,
        scenes=[gltf.Scene(name=called, nodes=[0, len(nodes) - 1])], nodes=nodes, meshes=[mesh], skins=[skin],
        materials=[gltf.Material(name=side or 'Middle', pbrMetallicRoughness=gltf.PbrMetallicRoughness(
            baseColorFactor=[*colour, 1.0], metallicFactor=0.0, roughnessFactor=0.8))
            for side, colour in COLOURS.items()],
        animations=[animation], accessors=arrays.accessors, bufferViews=arrays.views,
        buffers=[gltf.Buffer(byteLength=len(arrays.blob))])
    content.set_binary_blob(bytes(arrays.blob))
    with open(path, 'wb') as file:
        file.writelines(content.save_to_bytes())


class _Arrays:
    """The arrays of a file, one after another, and what says where they are."""

    def __init__(self) -> None:
        self.blob = bytearray()
        self.views: list[gltf.BufferView] = []
        self.accessors: list[gltf.Accessor] = []

    def add(self, array: np.ndarray, target: int | None = None) -> int:
        """Take an array (items, N), real numbers as float32, and return the number by which others refer to it.

        Args:
            target: what a viewer's graphics card does with it, if it needs it at all.
        """
        array = array.astype('<f4') if array.dtype.kind == 'f' else array
        self.views.append(gltf.BufferView(buffer=0, byteOffset=len(self.blob), byteLength=array.nbytes, target=target))
        self.accessors.append(gltf.Accessor(
            bufferView=len(self.views) - 1, componentType=COMPONENTS[array.dtype.name], count=len(array),
            type=KINDS[array.shape[1]], min=array.min(axis=0).tolist(), max=array.max(axis=0).tolist()))
        self.blob += array.tobytes()
        self.blob += bytes(-len(self.blob) % 4)
        return len(self.accessors) - 1


def _rotations(matrices: np.ndarray) -> np.ndarray:
    """Return unit quaternions x, y, z, w (T, 4) of rotations (T, 3, 3), without jumps to the opposite over time."""
    turned = np.roll(quaternion.from_matrix(matrices), -1, axis=-1)
    opposite = (turned[1:] * turned[:-1]).sum(axis=-1) < 0
    turned[1:] *= np.where(np.logical_xor.accumulate(opposite), -1, 1)[:, None]
    return turned


def _skeleton(bones: list[Bone], root: np.ndarray, turned: list[np.ndarray]) -> tuple[list[gltf.Node], np.ndarray]:
    """Return the nodes of the bones and then of the ends of limbs, in the first frame, and all of them at rest (J, 3).

    Args:
        root: (3,) where the root is in that frame. turned: the quaternion (4,) of each bone.
    """
    nodes = [gltf.Node(name=bone.name, translation=bone.offset.tolist(), rotation=rotation.tolist())
             for bone, rotation in zip(bones, turned, strict=True)]
    nodes[0].translation = root.tolist()
    places = np.zeros((len(bones), 3))
    for number, parent in enumerate(_parents(bones), 1):
        nodes[parent].children.append(number)
        places[number] = places[parent] + bones[number].offset
    ends = [number for number, node in enumerate(nodes) if not node.children]
    for number in ends:
        nodes[number].children.append(len(nodes))
        nodes.append(gltf.Node(name=f'{bones[number].name}_end', translation=bones[number].tip.tolist()))
    return nodes, np.concatenate([places, [places[number] + bones[number].tip for number in ends]])


def _parents(bones: list[Bone]) -> list[int]:
    """Return the number of the bone that each hangs on, without the first, which hangs on none."""
    numbers = {bone.name: number for number, bone in enumerate(bones)}
    return [numbers[bone.parent.name] for bone in bones if bone.parent]


def _figure(arrays: _Arrays, bones: list[Bone], places: np.ndarray) -> gltf.Mesh:
    """Return the mesh of all octahedra in the rest pose, each held by one bone."""
    spans = list(_spans(bones))
    held = np.zeros((6 * len(spans), 4), np.uint8)  # by up to four bones, of which the first has the whole weight
    held[:, 0] = np.repeat([number for _, number, _, _ in spans], 6)
    corners = np.concatenate([places[number] + _octahedron(start, end) for _, number, start, end in spans])
    attributes = gltf.Attributes(
        POSITION=arrays.add(corners, gltf.ARRAY_BUFFER), JOINTS_0=arrays.add(held, gltf.ARRAY_BUFFER),
        WEIGHTS_0=arrays.add(np.tile([1.0, 0, 0, 0], (len(held), 1)), gltf.ARRAY_BUFFER))
    primitives = []
    for material, side in enumerate(COLOURS):
        faces = [6 * span + corner for span, (of, *_) in enumerate(spans) if of == side for corner in FACES]
        primitives.append(gltf.Primitive(attributes=attributes, material=material, indices=arrays.add(
            np.array(faces, '<u2')[:, None], gltf.ELEMENT_ARRAY_BUFFER)))
    return gltf.Mesh(name='Figure', primitives=primitives)


def _spans(bones: list[Bone]) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """Yield (side, number of the bone that holds it, start (3,), end (3,)) of what is drawn, start and end in the bone.

    That is each bone, and what lies between its parent's end and its start: the hips.
    """
    for number, parent in enumerate(_parents(bones), 1):
        bone = bones[number]
        side = next(side for side in COLOURS if bone.name.startswith(side))
        if not np.allclose(bone.offset, bones[parent].tip):
            yield side, parent, bones[parent].tip, bone.offset
        yield side, number, np.zeros(3), bone.tip


def _octahedron(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the corners (6, 3) of an octahedron along an axis of the world, as all bones lie in the rest pose."""
    along = end - start if (end != start).any() else np.array([0, 1e-3, 0])  # a bone without a length is a dot
    across = np.roll(along, 1)
    other = np.cross(along, across) / np.linalg.norm(along)
    around = THICK * np.array([across, other, -across, -other])
    return start + np.array([0 * along, along, *(WAIST * along + around)])


def _animation(arrays: _Arrays, seconds: np.ndarray, root: np.ndarray, turned: list[np.ndarray]) -> gltf.Animation:
    """Return the animation of the bones by their rotations, (T, 4) each, and of the first also by its place (T, 3)."""
    seconds = seconds.astype(np.float32)
    kept = np.diff(seconds, prepend=-1) > 0  # times that a float32 cannot tell apart are one
    times = arrays.add(seconds[kept, None])
    moved = [(0, gltf.TRANSLATION, root), *((number, gltf.ROTATION, of_bone) for number, of_bone in enumerate(turned))]
    return gltf.Animation(
        samplers=[gltf.AnimationSampler(input=times, output=arrays.add(values[kept])) for _, _, values in moved],
        channels=[gltf.AnimationChannel(sampler=sampler, target=gltf.AnimationChannelTarget(node=number, path=path))
                  for sampler, (number, path, _) in enumerate(moved)])
