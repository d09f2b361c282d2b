"""Run a lifter over windows: predictions of a whole store, and of one clip with windows that overlap and blend.

Letters: W windows, F frames of a window, A frames taken from it, J joints, T frames of a clip, K keypoints.
"""

import numpy as np
import torch

from common.augment import Batch
from common.errors import ContractError, FileError
from common.geometry.camera import normalise, pinhole_intrinsic
from common.keypoints.bones import LIMBS_OF_A_PERSON, length_of_limbs
from common.models.lifter import FRAMES_PER_BATCH, Lifter, check_shape, describe_needs
from common.models.loading import LoadedLifter
from common.recipe import ROOTS
from common.sampler import TestWindows
from common.sequences import Sequence
from common.skeleton import Skeleton
from common.store import SequenceStore
from common.windows import blend_weights

PIECE = 2048  # frames that a window answers for at most where it can answer for any number
# What results files and exported predictions call other things.
RESERVED = frozenset({
    'checkpoint', 'model', 'dataset', 'keypoints', 'frames', 'causal', 'reads', 'protocols', 'targets', 'predictions',
    'headline', 'by_iteration', 'hypotheses', 'iterations', 'windows_per_choice', 'prediction', 'truth', 'subject',
    'action', 'camera', 'frame', 'joints', 'units', 'axes', 'overlap'})
LARGEST_SCREEN = 20  # screen coordinates reach from -1 to 1 across a picture; nobody is seen so far outside it


def widens(model: Lifter) -> bool:
    """Return whether a window of the model can answer for as many frames as asked for."""
    return len(model.window_for(len(model.answers) + 1)[1]) > len(model.answers)


def piece(model: Lifter, lengths: list[int]) -> int:
    """Return how many frames a window answers for so that sequences of these lengths are lifted with the least work.

    The last window of a sequence overlaps the one before it, and each reads frames around those it answers for.
    """
    sizes = sorted({min(size, max(lengths)) for size in range(PIECE // 32, PIECE + 1, PIECE // 32)})
    return min(sizes, key=lambda size: sum(-(-length // size) for length in lengths) * model.window_for(size)[0])


def usual_target(store: SequenceStore) -> str:
    """Return which windows a store is tested on where nothing else is asked for, as `TestWindows.of` calls it."""
    return 'all' if store.units is None else 'whole'


def windows_for(model: Lifter, store: SequenceStore, target: str = 'all', overlap: int | None = None) -> TestWindows:
    """Return the windows that a model lifts a store by: `TestWindows.of`, whose targets these are, or `overlap`.

    A model whose windows can be wider lifts long pieces at once, whatever the target: each frame comes out as from a
    window of its own, at a fraction of the arithmetic, and counts once.

    Args:
        overlap: of the target of this name, frames that neighbouring windows share, and blend; a quarter of what they
            answer for by default.

    Raises ValueError for an overlap as long as what a window answers for.
    """
    answered = len(model.answers)
    shared = answered // 4 if overlap is None else overlap
    if target == 'overlap' and shared >= answered:
        raise ValueError(f'windows answer for {answered} frame{"" if answered == 1 else "s"} and must share fewer')
    if widens(model):
        frames, answers = model.window_for(piece(model, store.lengths))
        return TestWindows.of(store, frames, answers=answers, once=True)
    if target == 'overlap':
        return TestWindows.overlapping(store, model.frames, shared, model.answers, model.spacing)
    return TestWindows.of(store, model.frames, target=target, answers=model.answers, spacing=model.spacing)


def batches_of(windows: TestWindows, device: torch.device) -> tuple[int, int]:
    """Return in how many batches windows are lifted at once on a device, and the size that all of them have."""
    most = max(1, FRAMES_PER_BATCH[device.type] // windows.frames)
    batches = max(1, -(-len(windows) // most))
    return batches, max(1, -(-len(windows) // batches))


@torch.inference_mode()
def predictions(model: Lifter, store: SequenceStore, windows: TestWindows, root: str = 'predicted',
                flip: bool = True) -> dict[str, torch.Tensor]:
    """Return what the model predicts, by name, (W, A, J, 3) metres each: the frames taken from the windows alone.

    What is predicted in units of the picture becomes metres where the store tells what these are worth.

    Args:
        root: `zero` sets the root joint to 0 in what comes out, `subtract` subtracts it from all joints, `predicted`
            leaves it.
        flip: whether the mirrored windows are lifted too.

    Raises ContractError for predictions of another shape than the windows ask for.
    """
    training = model.training
    model.eval()
    batches, size = batches_of(windows, store.device)
    # All batches of one size, so that a compiled model meets one shape: the last window fills what is left of the last.
    order = torch.arange(batches * size, device=store.device).clamp(max=max(0, len(windows) - 1))
    first = windows.taken.start - windows.answers.start
    kept = slice(first, first + len(windows.taken))
    # What is taken is copied to its place at once: a slice would keep all answers of its batch in memory.
    places: dict[str, torch.Tensor] = {}
    for number, index in enumerate(order[:batches * size if len(windows) else 0].split(size)):
        for name, poses in _predict(model, store, windows, index, flip).items():
            if name not in places:
                places[name] = poses.new_empty(batches * size, len(windows.taken), *poses.shape[2:])
            places[name][number * size:][:len(index)] = poses[:, kept]
    model.train(training)
    predicted = {name: place[:len(windows)] for name, place in places.items()}
    for poses in predicted.values():
        set_root(poses, store.root, root)
        to_metres(poses, store, windows.rows)
    return predicted


def sampled(model: Lifter, store: SequenceStore, windows: TestWindows, index: torch.Tensor, needs: frozenset[str],
            root: str, flip: bool, every: bool = False) -> tuple[torch.Tensor, Batch]:
    """Return the hypotheses (B, k, P, A, J, 3) of the windows of this index (B,), metres, and what was read of them.

    They are those of the frames taken, with the root as `predictions` has it.

    Args:
        needs: what is read of the windows besides keypoints.
        every: whether those of each iteration are returned, k = K, or of the last one, k = 1.
    """
    seen = view_of(store, windows, index, needs)
    first = windows.taken.start - windows.answers.start
    samples = model.sampled(seen, store.mirror if flip else None, every)[..., first:first + len(windows.taken), :, :]
    set_root(samples, store.root, root)
    to_metres(samples, store, windows.rows[index][:, None, None])
    return samples, seen


@torch.inference_mode()
def hypotheses_of(model: Lifter, store: SequenceStore, windows: TestWindows, root: str, flip: bool) -> torch.Tensor:
    """Return the hypotheses (W, P, A, J, 3) of a model that samples after its last iteration, as `predictions` does."""
    model.eval()
    most = max(1, FRAMES_PER_BATCH[store.device.type] // windows.frames // model.hypotheses)
    place = torch.empty(len(windows), model.hypotheses, len(windows.taken), store.joints, 3, device=store.device)
    for index in torch.arange(len(windows), device=store.device).split(most):
        place[index] = sampled(model, store, windows, index, model.needs, root, flip)[0][:, 0]
    return place


def set_root(poses: torch.Tensor, joint: int, root: str) -> None:
    """Set the root joint of poses (..., J, 3) to 0, or subtract it from all joints, in place, as `predictions` does."""
    if root == 'predicted':
        return
    if root == 'subtract':
        poses -= poses[..., joint, None, :].clone()  # in place, the root would be 0 before the others are moved
    poses[..., joint, :] = 0


def to_metres(poses: torch.Tensor, store: SequenceStore, rows: torch.Tensor) -> None:
    """Turn poses (..., J, 3) of these rows (...) of a store from its units into metres, in place."""
    if store.units is not None:
        poses *= store.units[rows][..., None, None]


def average_scale(poses: np.ndarray, skeleton: Skeleton) -> np.float32:
    """Return the one factor that makes root-relative poses (T, J, 3) of any unit metres of a person of average height.

    It brings the mean length of arms and legs together to that person's. Raises ValueError for poses without extent.
    """
    mean = np.mean(length_of_limbs(poses, skeleton), dtype=np.float64)
    if not 0 < mean < np.inf:
        raise ValueError('what is predicted has no extent, so that no person can be made of it')
    return np.float32(LIMBS_OF_A_PERSON / mean)


def view_of(store: SequenceStore, windows: TestWindows, index: torch.Tensor, needs: frozenset[str]) -> Batch:
    """Return the windows of this index (B,) as a model reads them."""
    sequence = windows.sequence[index]
    last = None if windows.last is None else windows.last[index]
    rows = store.frame_index(sequence, windows.start[index], windows.frames, last, windows.spacing)
    view = store.batch(sequence, rows, windows.answers, needs, None)
    return view._replace(window=windows.number[index])


def _predict(model: Lifter, store: SequenceStore, windows: TestWindows, index: torch.Tensor,
             flip: bool) -> dict[str, torch.Tensor]:
    """Return the predictions (B, answers, J, 3) of the windows of this index (B,), by name."""
    view = view_of(store, windows, index, model.needs)
    lifted = model.lift(view, store.mirror if flip else None)
    for poses in lifted.values():
        check_shape(model, poses, (len(index), len(windows.answers), store.joints, 3))
    return lifted


def check_lifting(model: Lifter, store: SequenceStore) -> None:
    """Lift one window of a store, so that a model that breaks its contract is told before hours of training.

    Raises ContractError for predictions of another shape, or under names that results files use themselves.
    """
    for name in predictions(model, store, windows_for(model, store).one(0)):
        if name in RESERVED:
            raise ContractError(f'{type(model).__name__} calls a prediction {name}, which results files use otherwise')


def blend(predicted: np.ndarray, start: np.ndarray, length: int, overlap: int) -> np.ndarray:
    """Lay windows (W, A, J, 3) that start at frames (W,) over each other: (T, J, 3) float32, T = length.

    Without overlap, a frame that the last window covers again is taken from the window before, as in evaluation.
    """
    frames = predicted.shape[1]
    weights = blend_weights(frames, overlap)
    total = np.zeros((length, *predicted.shape[2:]))
    weight = np.zeros((length, 1, 1))
    covered = 0
    for window, begin in zip(predicted, start, strict=True):
        since = 0 if overlap else max(0, covered - begin)
        until = min(frames, length - begin)
        here = slice(begin + since, begin + until)
        total[here] += weights[since:until, None, None] * window[since:until]
        weight[here] += weights[since:until, None, None]
        covered = begin + until
    return (total / weight).astype(np.float32)


def clip_store(lifter: LoadedLifter, screen: np.ndarray, confidence: np.ndarray | None = None,
               intrinsic: np.ndarray | None = None) -> SequenceStore:
    """Return a store of one clip, without truth.

    Args:
        screen: (T, K, 2) normalised screen coordinates. confidence: (T, K).
        intrinsic: (9,) the lens in normalised units.

    Raises FileError for a model that reads what a clip does not tell.
    """
    clip = Sequence('', '', 0, screen.astype(np.float32), None, intrinsic=intrinsic,
                    confidence=None if confidence is None else confidence.astype(np.float32))
    store = SequenceStore([clip], lifter.layout, lifter.skeleton, lifter.device)
    missing = store.lacks(lifter.model.needs)
    if missing == 'intrinsic':
        raise FileError(f'{lifter.path} reads the lens of the camera: say --intrinsics FX FY CX CY in pixels, or --fov '
                        f'DEGREES')
    if missing:
        raise FileError(f'{lifter.path} reads {describe_needs(frozenset({missing}))}, which keypoints alone do not '
                        f'tell: it cannot lift them')
    return store


def blended(poses: torch.Tensor, store: SequenceStore, windows: TestWindows) -> torch.Tensor:
    """Return poses (W, A, ...) in which all that windows say of a frame is the blended mean of it."""
    if not windows.overlap:
        return poses
    sequence, counts = windows.sequence.unique_consecutive(return_counts=True)
    parts = [torch.from_numpy(blend(said.cpu().numpy(), frame[:, 0].cpu().numpy(), store.lengths[index],
                                    windows.overlap)).to(poses.device)[frame]
             for index, said, frame in zip(sequence.tolist(), poses.split(counts.tolist()),
                                           windows.frame.split(counts.tolist()), strict=True)]
    return torch.cat(parts) if parts else poses


def _joined(poses: torch.Tensor, store: SequenceStore, windows: TestWindows) -> np.ndarray:
    """Return the frames (T, ...) of windows (W, A, ...) over the one clip of a store, blended where they overlap."""
    return blended(poses, store, windows)[windows.first].cpu().numpy()


def lift_store(lifter: LoadedLifter, store: SequenceStore, root: str, overlap: int | None = None,
               causal: bool = False, flip: bool = True) -> tuple[dict[str, np.ndarray], TestWindows]:
    """Return the predictions (T, J, 3) of the one clip of a store, by name, and the windows that they come from.

    Args:
        overlap: as `windows_for` takes it. flip: whether mirrored keypoints are lifted too.
        causal: take each frame from a window that ends at it.

    Raises ValueError for an overlap as long as what a window answers for.
    """
    windows = windows_for(lifter.model, store, 'last' if causal else 'overlap', overlap)
    predicted = predictions(lifter.model, store, windows, root, flip)
    return {name: _joined(poses, store, windows) for name, poses in predicted.items()}, windows


def lift_hypotheses(lifter: LoadedLifter, store: SequenceStore, root: str, overlap: int | None = None,
                    causal: bool = False, flip: bool = True) -> tuple[np.ndarray, np.ndarray, TestWindows]:
    """Return the mean (T, J, 3) of a clip's hypotheses, these (P, T, J, 3), and the windows that they come from.

    Means blend where windows overlap. Hypotheses do not, since those of two windows have nothing to do with each other
    and their own mean would lie between them: each frame has those of the window in which it lies nearest to the
    middle, moved so that their mean is the blended one. Arguments as `lift_store` takes them.
    """
    windows = windows_for(lifter.model, store, 'last' if causal else 'overlap', overlap)
    samples = hypotheses_of(lifter.model, store, windows, root, flip)
    mean = _joined(samples.mean(dim=1), store, windows)
    edge = np.minimum(np.arange(len(windows.taken)), np.arange(len(windows.taken))[::-1])
    frames = windows.frame.cpu().numpy()
    order = np.lexsort((np.broadcast_to(-edge, frames.shape).ravel(), frames.ravel()))
    _, nearest = np.unique(frames.ravel()[order], return_index=True)
    window, place = np.divmod(order[nearest], len(windows.taken))
    own = samples[torch.from_numpy(window), :, torch.from_numpy(place)].cpu().numpy()  # (T, P, J, 3)
    return mean, np.moveaxis(own - own.mean(axis=1, keepdims=True) + mean[:, None], 1, 0), windows


def lift_newest(lifter: LoadedLifter, screen: np.ndarray, confidence: np.ndarray, root: str,
                flip: bool = True) -> np.ndarray:
    """Return the pose (J, 3) of the last frame of a clip, of a model that samples the mean of its hypotheses.

    A model that answers for an earlier frame than the last of its window reads the clip's last frame again in place of
    those that are still to come.

    Args:
        screen, confidence: (T, K, 2) and (T, K), as `clip_store` takes them. root, flip: as `predictions` has them.

    Raises FileError for a model that reads what a clip does not tell.
    """
    store, model = clip_store(lifter, screen, confidence), lifter.model
    windows = TestWindows.of(store, model.frames, target='last', answers=model.answers, spacing=model.spacing)
    newest = windows.one(len(store) - 1)
    if model.samples:
        return hypotheses_of(model, store, newest, root, flip)[0].mean(dim=0)[0].cpu().numpy()
    return list(predictions(model, store, newest, root, flip).values())[-1][0, 0].cpu().numpy()


def lift_clip(lifter: LoadedLifter, keypoints: np.ndarray, size: tuple[float, float] | None, overlap: int | None,
              causal: bool, root: str | None, intrinsics: tuple[float, float, float, float] | None) -> np.ndarray:
    """Lift one person's keypoints: see `LoadedLifter.lift_clip`."""
    keypoints = np.asarray(keypoints)
    _check_keypoints(keypoints, lifter.layout)
    screen, intrinsic = _on_screen(keypoints[..., :2].astype(np.float64), size, intrinsics)
    store = clip_store(lifter, screen, keypoints[..., 2] if keypoints.shape[2] == 3 else None, intrinsic)
    root = root or lifter.settings.get('root', lifter.model.recipe.root)
    if root not in ROOTS:
        raise ValueError(f'root is {root!r}, expected {" or ".join(map(repr, ROOTS))}')
    flip = lifter.settings.get('flip', lifter.model.recipe.flip)
    poses = list(lift_store(lifter, store, root, overlap, causal, flip)[0].values())[-1]
    return average_scale(poses, lifter.skeleton) * poses if lifter.in_the_picture else poses


def _check_keypoints(keypoints: np.ndarray, layout: Skeleton) -> None:
    """Raise ValueError unless keypoints are (T, K, 2 or 3) of a layout and finite."""
    fits = keypoints.ndim == 3 and keypoints.shape[1] == len(layout) and keypoints.shape[2] in (2, 3)
    if not fits or not len(keypoints):
        raise ValueError(f'expected keypoints (frames, {len(layout)}, 2 or 3) of layout {layout.name}, got '
                         f'{keypoints.shape}')
    if not np.isfinite(keypoints).all():
        raise ValueError('keypoints are NaN or infinite: fill the gaps first')


def _on_screen(points: np.ndarray, size: tuple[float, float] | None,
               intrinsics: tuple[float, float, float, float] | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return points (T, K, 2) in normalised screen coordinates, and the (9,) intrinsic vector of a lens in pixels.

    Without a size the points are screen coordinates already. Raises ValueError for pixels without one.
    """
    if size is not None:
        screen = normalise(points, *size)
        if intrinsics is None:
            return screen, None
        return screen, pinhole_intrinsic(intrinsics[:2], intrinsics[2:], (0, 0, 0), (0, 0), *size)
    if np.abs(points).max() > LARGEST_SCREEN:
        raise ValueError(f'keypoints up to {np.abs(points).max():.0f} are pixels: say size=(width, height)')
    if intrinsics is not None:
        raise ValueError('intrinsics are in pixels: say size=(width, height)')
    return points, None
