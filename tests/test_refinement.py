"""A refinement behind any model: what its class says of the training, its windows and its statistics."""

import pytest
import torch
from torch import nn

from common.augment import Batch
from common.errors import ContractError
from common.losses import mean_mpjpe, refinement_loss
from common.models import model_class, recipe_of
from common.models.lifter import Lifter
from common.models.refine import Refined
from common.recipe import Recipe, RefinementRecipe
from common.skeleton import H36M


class Middle(Lifter):
    """One number for each coordinate, of windows of 5 frames that answer for their middle; wider ones for more."""

    title = 'Middle'
    recipe = Recipe(epochs=1, batch=2, optimizer='adam', lr=1e-3, lr_decay=1, loss='mse', objective='half-square',
                    root='predicted', seed=0, l1_share=0.3)
    refinement = RefinementRecipe(lr=1e-4, base=0, symmetry=0)
    frames, answers, measured = 5, range(2, 3), True

    def __init__(self):
        nn.Module.__init__(self)
        self.pose = nn.Parameter(torch.randn(17, 3))
        self.seen = []

    def window_for(self, count):
        return count + 4, range(2, count + 2)

    def measure(self, keypoints, poses):
        self.seen.append(('measure', keypoints, poses))

    def begin_epoch(self, epoch, epochs):
        self.seen.append((epoch, epochs))

    def forward(self, keypoints):
        return self.pose.expand(len(keypoints), keypoints.shape[1] - 4, -1, -1)


def batch(answers):
    """Three windows that answer for so many frames, each frame's keypoints its number."""
    frames = answers + 4
    keypoints = torch.arange(float(frames))[None, :, None, None].expand(3, -1, 17, 2) / 10
    return Batch(keypoints, torch.randn(3, answers, 17, 3), torch.ones(3, 9), torch.full((3, answers), 4.0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Refined(Middle(), H36M, H36M).eval()


@pytest.mark.parametrize('answers', [1, 3])
def test_keypoints_are_those_of_the_frames_that_come_out(model, answers):
    view = batch(answers)
    base = model.read(view)
    expected = model.refine(base, view.keypoints[:, 2:2 + answers], view.intrinsic, view.root_depth)
    assert torch.equal(model.refined(base, view), expected)
    loss = model.loss(view, mean_mpjpe)
    assert loss.item() == pytest.approx(mean_mpjpe(expected, view.truth).item())
    loss.backward()
    assert model.base.pose.grad.norm() > 0


def test_poses_of_another_shape_are_refused_even_where_the_base_has_no_term(model):
    view = batch(3)
    with pytest.raises(ContractError, match=r'Middle predicts \(3, 3, 17, 3\)'):
        model.loss(view._replace(poses=view.truth[:, :1]), mean_mpjpe)


def test_what_the_base_is_told_reaches_it(model):
    model.begin_epoch(2, 9)
    assert model.measured
    model.measure('keypoints', 'poses')
    assert model.base.seen == [(2, 9), ('measure', 'keypoints', 'poses')]
    assert not Refined(model_class('htnet')(model_class('htnet').Config(), H36M, H36M), H36M, H36M).measured


def test_recipes_say_how_a_refinement_is_trained():
    assert (model_class('htnet').refinement, model_class('mgcn').refinement) == \
        (RefinementRecipe(1e-5, 1.0, 0.01), RefinementRecipe(5e-3, 1.0, 0.01))
    for name in ('htnet', 'ktpformer', 'mgcn', 'mgcn16'):
        recipe = recipe_of(name, {'refine': True})
        assert (recipe.lr, recipe.loss, recipe.objective, recipe.root) == \
            (model_class(name).refinement.lr, 'refinement', 'plain', 'zero')
        assert (recipe.l1_share, recipe.clip, recipe.batch) == \
            (recipe_of(name).l1_share, recipe_of(name).clip, recipe_of(name).batch)


def test_a_process_without_windows_takes_part_in_a_refinement():
    empty = torch.zeros(0, 1, 17, 3, requires_grad=True)
    loss = refinement_loss(empty, empty * 2, torch.zeros(0, 1, 17, 3), torch.tensor(H36M.bone_pairs),
                           RefinementRecipe())
    loss.backward()
    assert loss == 0
    assert empty.grad.shape == empty.shape
