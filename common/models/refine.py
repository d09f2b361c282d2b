"""Refinement: a prediction and the back-projected keypoints, weighed against each other joint by joint.

Source: Zou and Tang, "Modulated Graph Convolutional Network for 3D Human Pose Estimation", ICCV 2021, whose refinement
HTNet's best published numbers use too. It reads the camera and the true depth of the root, which methods without it do
not know. Letters: B windows, F frames, J joints.
"""

import torch
from torch import nn

HIDDEN = 1024


def back_project(predicted: torch.Tensor, keypoints: torch.Tensor, intrinsic: torch.Tensor, root_depth: torch.Tensor,
                 root: int) -> torch.Tensor:
    """The poses that project onto the keypoints at the predicted depths; distortion is left out of account.

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
        """The arguments of `back_project` -> (B, F, J, 3) metres; the root comes as it is predicted, refined alike."""
        projected = back_project(predicted, keypoints, intrinsic, root_depth, self.root)
        weight = self.post_refine(torch.cat([predicted, projected], dim=-1).flatten(2))  # (B, F, 2*J)
        weight = weight.unflatten(-1, (-1, 2))  # (B, F, J, 2)
        plane = weight * predicted[..., :2] + (1 - weight) * projected[..., :2]
        return torch.cat([plane, predicted[..., 2:]], dim=-1)


class Refined(nn.Module):
    """A model and the refinement behind it."""

    def __init__(self, base: nn.Module, joints: int, root: int):
        super().__init__()
        self.base, self.refine = base, Refinement(joints, root)
        self.frames = base.frames

    def forward(self, keypoints: torch.Tensor) -> torch.Tensor:
        """What the model says without refinement: (B, F, J, 2) -> (B, F, J, 3)."""
        return self.base(keypoints)
