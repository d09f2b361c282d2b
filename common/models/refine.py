"""Refinement: a prediction and the back-projected keypoints, weighed against each other joint by joint.

Source: Zou and Tang, "Modulated Graph Convolutional Network for 3D Human Pose Estimation", ICCV 2021, whose refinement
HTNet's best published numbers use too. It reads the camera and the true depth of the root, which methods without it do
not know. Letters: B windows, F frames, J joints.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from common.augment import Batch, Mirror
from common.losses import refinement_loss
from common.models.around import Around
from common.models.lifter import Criterion, Lifter, check_shape
from common.recipe import Recipe
from common.skeleton import Skeleton

HIDDEN = 1024


def back_project(predicted: torch.Tensor, keypoints: torch.Tensor, intrinsic: torch.Tensor, root_depth: torch.Tensor,
                 root: int) -> torch.Tensor:
    """Return the poses that project onto the keypoints at the predicted depths, without regard to distortion.

    Args:
        predicted: (B, F, J, 3) metres, of which the depths relative to the root are used.
        keypoints: (B, F, J, 2) normalised screen coordinates.
        intrinsic: (B, 9) focal length x, y and centre x, y in normalised units, then distortion.
        root_depth: (B, F) metres from the camera.
        root: index of the root joint.

    Returns (B, F, J, 3) metres, relative to the root.
    """
    focal, centre = (part[:, None, None] for part in (intrinsic[:, :2], intrinsic[:, 2:4]))  # (B, 1, 1, 2)
    relative = predicted[..., 2].clone()
    relative[..., root] = 0
    depth = (relative + root_depth[..., None])[..., None]  # (B, F, J, 1)
    points = torch.cat([(keypoints - centre) * depth / focal, depth], dim=-1)
    return points - points[:, :, root:root + 1]


class Refinement(nn.Module):
    """Moves x and y of each joint between the prediction (weight 1) and the back-projection (weight 0)."""

    def __init__(self, joints: int, root: int):
        super().__init__()
        self.root = root
        self.post_refine = nn.Sequential(nn.Linear(6 * joints, HIDDEN), nn.ReLU(), nn.Dropout(0.5),
                                         nn.Linear(HIDDEN, 2 * joints), nn.Sigmoid())

    def forward(self, predicted: torch.Tensor, keypoints: torch.Tensor, intrinsic: torch.Tensor,
                root_depth: torch.Tensor) -> torch.Tensor:
        """Weigh prediction and back-projection: (B, F, J, 3) metres. Arguments as `back_project` takes them.

        The root comes as it is predicted, refined like every other joint.
        """
        projected = back_project(predicted, keypoints, intrinsic, root_depth, self.root)
        weight = self.post_refine(torch.cat([predicted, projected], dim=-1).flatten(2))  # (B, F, 2*J)
        weight = weight.unflatten(-1, (-1, 2))  # (B, F, J, 2)
        plane = weight * predicted[..., :2] + (1 - weight) * projected[..., :2]
        return torch.cat([plane, predicted[..., 2:]], dim=-1)


class Refined(Around):
    """A lifter and the refinement behind it, trained together."""

    needs = frozenset({'intrinsic', 'root_depth'})
    bone_pairs: torch.Tensor

    def __init__(self, base: Lifter, skeleton: Skeleton, layout: Skeleton):
        """Put a fresh refinement behind a lifter. Raises ValueError for keypoints that are not the joints."""
        super().__init__(base)
        if layout != skeleton:
            raise ValueError(f'a refinement needs a keypoint for each joint, not {layout.name} for {skeleton.name}')
        self.base, self.refine = base, Refinement(len(skeleton), skeleton.root)
        self.needs, self.title = Refined.needs | base.needs, f'{base.title} with refinement'
        self.register_buffer('bone_pairs', torch.tensor(skeleton.bone_pairs), persistent=False)

    def compile(self, *how: Any, **options: Any) -> None:
        """Compile base and refinement, each of which is called by itself."""
        self.base.compile(*how, **options)
        self.refine.compile(*how, **options)

    def forward(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Lift without refinement: (B, F, J, 2) -> (B, A, J, 3)."""
        return self.base(keypoints)

    def read(self, batch: Batch) -> torch.Tensor:
        """Return the base's poses (B, A, J, 3) of a batch."""
        return self.base.read(batch)

    def refined(self, base: torch.Tensor, view: Batch) -> torch.Tensor:
        """Refine poses (B, A, J, 3) with the keypoints, cameras and depths of their windows: (B, A, J, 3).

        Raises ValueError for windows of which these are not known.
        """
        if view.intrinsic is None or view.root_depth is None:
            raise ValueError('expected windows with intrinsic and root_depth, which a refinement reads')
        _, answers = self.window_for(base.shape[1])  # those of the window, which may be a wider one
        keypoints = view.keypoints[:, answers.start:answers.stop, :, :2]
        return self.refine(base, keypoints, view.intrinsic, view.root_depth)

    @property
    def core(self) -> Lifter:
        """Return the base."""
        return self.base

    def measure(self, keypoints: torch.Tensor, poses: torch.Tensor) -> None:
        """Show the base all training frames, keypoints (N, J, 2) and poses (N, J, 3)."""
        self.base.measure(keypoints, poses)

    def loss(self, batch: Batch, criterion: Criterion) -> torch.Tensor:
        """Return what the base's `refinement` weighs: the criterion of its poses, and the refined ones' symmetry."""
        base = self.read(batch)
        check_shape(self.base, base, tuple(batch.truth.shape))
        return refinement_loss(base, self.refined(base, batch), batch.truth, self.bone_pairs, self.base.refinement,
                               criterion)

    def lift(self, view: Batch, mirror: Mirror | None) -> dict[str, torch.Tensor]:
        """Refine once, the base's headline prediction, with the keypoints as seen; its other ones come as they are."""
        predictions = self.base.lift(view, mirror)
        return predictions | {'refined': self.refined(list(predictions.values())[-1], view)}

    def reads(self, name: str) -> frozenset[str]:
        """Return what a prediction reads besides keypoints: the base's read what they read without a refinement."""
        return self.needs if name == 'refined' else self.base.reads(name)

    def without_truth(self) -> Lifter:
        """Return the base: nobody knows the true depth of the root where there is no truth."""
        return self.base.without_truth()


def refinement_recipe(kind: type[Lifter]) -> Recipe:
    """Return how a refinement is trained behind a model of this class."""
    return replace(kind.recipe, lr=kind.refinement.lr, loss='refinement', objective='plain', root='zero')
