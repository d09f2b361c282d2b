"""A trained model in a file that runs without this program: ONNX, or a program of torch.export (.pt2).

What is inside is `Lifter.lift`: normalised keypoints in, the headline's poses out, the root as an evaluation has it.
Letters: B windows, F frames of a window, A frames that it answers for, K keypoints, J joints.
"""

import copy
import importlib
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import __version__
from common.augment import Batch, Mirror
from common.errors import DivergedError, FileError, FlagError
from common.models.lifter import Lifter, describe_needs
from common.models.lifting import set_root
from common.models.loading import LoadedLifter
from common.skeleton import Skeleton
from common.storage.files import MIB, atomic_path, first_line, open_regular, suffix_of

ONNX, PT2 = '.onnx', '.pt2'
PACKAGES = {ONNX: ('onnx', 'onnxscript', 'onnxruntime'), PT2: ()}  # suffix -> what it needs beside torch
READS, GIVES = 'keypoints', 'poses'  # what the graph calls its input and its output
PROGRAM = 'pose-lifting'  # begins the value of the key `program` of a file of ours
DESCRIPTION = 'pose_lifting.json'  # the description among the extra files of a .pt2
CHECKED = (1, 3, 64)  # windows at once of the check
CHECKED_FRAMES = 64 * 27  # longer windows are fewer: of 243 frames, each takes a large model half a gigabyte
TOLERANCE = 1e-5  # metres, or of the largest coordinate where that is more than one
LIBRARIES = ('torch', 'onnxscript', 'onnx_ir', 'onnx')  # whose remarks on their own workings are no user's concern

Lift = Callable[[torch.Tensor], torch.Tensor]  # keypoints (B, F, K, 2 or 3) -> poses (B, A, J, 3)


class Graph(nn.Module):
    """A lifter as other programs use it: (B, F, K, 2), or (B, F, K, 3) with confidence -> (B, A, J, 3)."""

    mirror_keypoints: torch.Tensor
    mirror_joints: torch.Tensor
    at_root: torch.Tensor

    def __init__(self, model: Lifter, layout: Skeleton, skeleton: Skeleton, root: str, flip: bool):
        """Wrap a model, which is not changed. `root` and `flip` are those of `predictions`."""
        super().__init__()
        self.model, self.root, self.flip, self.joint = model, root, flip, skeleton.root
        self.register_buffer('mirror_keypoints', torch.tensor(layout.mirror))
        self.register_buffer('mirror_joints', torch.tensor(skeleton.mirror))
        self.register_buffer('at_root', torch.arange(len(skeleton))[:, None] == skeleton.root)

    def predicted(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Return the headline prediction (B, A, J, 3), with the root as the model predicts it."""
        mirror = Mirror(self.mirror_keypoints, self.mirror_joints) if self.flip else None
        return list(self.model.lift(Batch(keypoints), mirror).values())[-1]

    def forward(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Lift; `set_root`, which works in place, would be a dozen nodes of the graph."""
        poses = self.predicted(keypoints)
        if self.root == 'subtract':
            return poses - poses[..., self.joint, None, :]
        return poses.masked_fill(self.at_root, 0) if self.root == 'zero' else poses

    def eager(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Return what the program itself gives for these windows, by the code of an evaluation."""
        poses = self.predicted(keypoints)
        set_root(poses, self.joint, self.root)
        return poses


def check_packages(path: Path) -> None:
    """Raise FileError, with the line for pip, where a package is missing that the kind of file needs."""
    wanted = PACKAGES[suffix_of(path)]
    try:
        with quiet():
            for package in wanted:
                importlib.import_module(package)
    except ImportError as error:
        raise FileError(f'writing {path} needs {error.name or "packages"}: pip install {" ".join(wanted)}') from None


def check_replaceable(path: Path) -> None:
    """Raise FileError for a file that is there already and that no --export-model wrote."""
    if path.exists() and not str(described(path).get('program')).startswith(PROGRAM):
        raise FileError(f'{path} is there already, and --export-model did not write it: choose another name, or move '
                        f'it away')


def export_model(path: Path, lifter: LoadedLifter, root: str, flip: bool) -> tuple[dict[str, Any], float]:
    """Write a model to `path`, as its suffix says, once the file was read again and gives what the model gives.

    Args:
        root, flip: as `predictions` has them.

    Returns what is told of it in the file, and the largest difference found, in the unit of the poses. Raises
    FlagError for a model that no graph can hold, DivergedError for one that predicts what is not finite, and FileError
    where the file cannot be written or gives something else; there is no file then.
    """
    check_exportable(lifter.model)
    model = copy.deepcopy(lifter.model).cpu()  # whose weights want no gradient, here nor in the file
    graph = Graph(model, lifter.layout, lifter.skeleton, root, flip).eval().requires_grad_(False)
    about = describe(lifter, root, flip)
    with atomic_path(path) as temporary, quiet():
        write, read = (write_onnx, read_onnx) if suffix_of(path) == ONNX else (write_pt2, read_pt2)
        write(temporary, traced(graph, about), about)
        try:
            lift = read(temporary)
        except Exception as error:  # each runtime raises what it likes
            raise FileError(f'{path} is not written: what would run it cannot read it ({first_line(error)})') from None
        return about, check_parity(path, graph, about, lift)


def check_exportable(model: Lifter) -> None:
    """Raise FlagError, with the reason, for a model that no graph of keypoints alone can hold."""
    if model.samples:
        raise FlagError(f'--export-model: {model.title} draws noise anew for each window and hypothesis, and a graph '
                        f'gives the same for the same keypoints: take a model that was trained without --diffusion')
    if others := model.needs - {'confidence'}:
        raise FlagError(f'--export-model: {model.title} reads {describe_needs(others)}, and the graph is given '
                        f'keypoints alone: take another model')


def describe(lifter: LoadedLifter, root: str, flip: bool) -> dict[str, Any]:
    """Return what the file tells of its model; docs/export.md says what each key means."""
    model, layout, skeleton = lifter.model, lifter.layout, lifter.skeleton
    return {
        'program': f'{PROGRAM} {__version__}', 'model': lifter.name, 'checkpoint': lifter.path.name,
        'layout': layout.name, 'keypoints': list(layout.joints),
        'values': ['x', 'y', *(['confidence'] if 'confidence' in model.needs else [])],
        'normalisation': 'x = 2 * pixel_x / width - 1; y = (2 * pixel_y - height) / width',
        'frames': model.frames, 'spacing': model.spacing, 'answers': [model.answers.start, model.answers.stop],
        'skeleton': skeleton.name, 'joints': list(skeleton.joints), 'parents': list(skeleton.parents),
        'root': skeleton.root, 'root_is': {'zero': 'set to 0', 'predicted': 'as predicted',
                                           'subtract': 'subtracted from all joints'}[root],
        'unit': 'of the picture, of no known size' if lifter.in_the_picture else 'metres',
        'axes': 'x right, y down, z away from the camera', 'flip': flip}


def traced(graph: Graph, about: dict[str, Any]) -> torch.export.ExportedProgram:
    """Return the graph for any number of windows. Raises FlagError for a model that cannot be traced."""
    try:
        with torch.no_grad():
            return torch.export.export(graph, (windows_like(about, 2 + 3),), strict=False,
                                       dynamic_shapes=({0: torch.export.Dim('batch')},))
    except Exception as error:  # torch raises what it likes over code that it cannot follow
        raise FlagError(f'--export-model: {graph.model.title} cannot be traced by torch.export ({first_line(error)}): '
                        f'take another model') from None


def windows_like(about: dict[str, Any], count: int) -> torch.Tensor:
    """Return windows (B, F, K, 2 or 3) as a model reads them: people in motion, and every other one mere noise."""
    random = torch.Generator().manual_seed(count)
    frames, keypoints = about['frames'], len(about['keypoints'])
    size = 0.1 + 0.5 * torch.rand(count, 1, 1, 1, generator=random)
    place = torch.rand(count, 1, 1, 2, generator=random) - 0.5
    body = torch.randn(count, 1, keypoints, 2, generator=random)
    moves = torch.randn(count, frames, keypoints, 2, generator=random).cumsum(1) / 20
    windows = place + 0.3 * size * (body + moves)
    windows[::2] = 2 * torch.rand(windows[::2].shape, generator=random) - 1
    if len(about['values']) == 3:
        windows = torch.cat([windows, torch.rand(*windows.shape[:3], 1, generator=random)], dim=-1)
    return windows


def check_parity(path: Path, graph: Graph, about: dict[str, Any], lift: Lift) -> float:
    """Return the largest difference between the program's poses and those of the file, in their unit.

    Raises DivergedError for poses that are not finite, and FileError for a difference of more than TOLERANCE.
    """
    largest = 0.0
    for count in dict.fromkeys(min(count, max(4, CHECKED_FRAMES // about['frames'])) for count in CHECKED):
        windows = windows_like(about, count)
        with torch.no_grad():
            expected = graph.eager(windows)
        if not expected.isfinite().all():
            raise DivergedError(f'{about["checkpoint"]} predicts NaN or infinite coordinates: its weights diverged')
        try:
            got = lift(windows)
        except Exception as error:  # each runtime raises what it likes
            raise FileError(f'{path} is not written: its graph does not take {count} windows '
                            f'({first_line(error)})') from None
        if got.shape != expected.shape:
            raise FileError(f'{path} is not written: its graph gives {tuple(got.shape)} for {count} windows, expected '
                            f'{tuple(expected.shape)}')
        difference = float((got - expected).abs().max())
        tolerated = TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= tolerated:
            raise FileError(f'{path} is not written: for {count} windows its graph and the model differ by '
                            f'{difference:.2g}, and {tolerated:.2g} is tolerated (unit: {about["unit"]})')
        largest = max(largest, difference)
    return largest


# ---- the two kinds of file --------------------------------------------------------------------------------------


def write_onnx(path: Path, program: torch.export.ExportedProgram, about: dict[str, Any]) -> None:
    """Write a traced graph as ONNX, in one file, with a property for each key; what is no text is JSON.

    Raises FlagError where a step of it has no counterpart in ONNX.
    """
    try:
        made = torch.onnx.export(program, dynamo=True, input_names=[READS], output_names=[GIVES], verbose=False,
                                 dynamic_shapes=({0: 'batch'},))
    except ImportError as error:  # of the parts for this version of torch
        raise FileError(f'{path} is not written: torch {torch.__version__} wants a newer onnxscript '
                        f'({first_line(error)}): pip install --upgrade onnxscript') from None
    except Exception as error:  # the converter raises what it likes
        raise FlagError(f'--export-model: {about["model"]} cannot be written as ONNX ({first_line(error)}): take a '
                        f'name that ends in .pt2') from None
    if made is None:  # which torch only promises in words
        raise FileError(f'{path} is not written: torch made no ONNX of it')
    made.model.producer_name, made.model.producer_version = PROGRAM, __version__
    made.model.metadata_props.update({
        key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()})
    made.save(str(path), external_data=False)


def read_onnx(path: Path) -> Lift:
    """Return what lifts windows by a file of ONNX, with onnxruntime."""
    import onnxruntime
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return lambda windows: torch.from_numpy(session.run([GIVES], {READS: windows.numpy()})[0])


def write_pt2(path: Path, program: torch.export.ExportedProgram, about: dict[str, Any]) -> None:
    """Write a traced graph as torch.export does, with its description as an extra file of JSON."""
    made = io.BytesIO()  # torch's own writing aborts the process where the disk is full
    torch.export.save(program, made, extra_files={DESCRIPTION: json.dumps(about)})
    path.write_bytes(made.getbuffer())


def read_pt2(path: Path) -> Lift:
    """Return what lifts windows by a file of torch.export."""
    lift = torch.export.load(path).module()

    def lifted(windows: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return lift(windows)
    return lifted


def described(path: Path) -> dict[str, Any]:
    """Return what a file of ours tells of its model, {} for any other file. Raises FileError for what is no file."""
    try:
        with open_regular(path) as file:
            if suffix_of(path) == ONNX:
                import onnx
                return {entry.key: entry.value for entry in onnx.load_model_from_string(file.read()).metadata_props}
            with zipfile.ZipFile(file) as archive:
                name = next(name for name in archive.namelist() if name.endswith(f'/{DESCRIPTION}'))
                with archive.open(name) as extra:
                    told = json.loads(extra.read(MIB))
                return told if isinstance(told, dict) else {}
    except FileError:
        raise
    except Exception:  # whatever a reader raises, it is somebody else's file
        return {}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' remarks on their own workings out of what the program says."""
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    try:
        for name in LIBRARIES:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
