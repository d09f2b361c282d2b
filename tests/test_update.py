import math

import pytest
import torch

from common.config import Train
from common.losses import mean_mpjpe
from common.models import build_model
from common.skeleton import H36M
from common.training.optimiser import FiniteCheck, MovingAverage, learning_rate, make_criterion, make_optimizer


def recipe(**more):
    return Train(**{'epochs': 10, 'batch': 8, 'stride': 1, 'lr': 1e-3, 'lr_decay': 0.9, 'lr_drop_every': 0, **more})


def test_exponential_schedule():
    rates = [learning_rate(recipe(), 1e-3, 1, epoch, step, 5) for epoch in (1, 2, 3) for step in (0, 4)]
    assert rates == pytest.approx([1e-3, 1e-3, 9e-4, 9e-4, 8.1e-4, 8.1e-4])
    assert learning_rate(recipe(), 1e-3, 4, 4, 0, 5) == 1e-3  # a public file's rate starts where it left off


def test_cosine_schedule_ends_at_zero():
    cosine = recipe(schedule='cosine')
    assert learning_rate(cosine, 1e-3, 1, 1, 0, 5) == 1e-3
    assert learning_rate(cosine, 1e-3, 1, 6, 0, 5) == pytest.approx(5e-4)
    assert learning_rate(cosine, 1e-3, 1, 10, 4, 5) == pytest.approx(1e-3 * (1 + math.cos(math.pi * 0.98)) / 2)


def test_a_staircase_of_steps_counts_over_epochs():
    """The published rule: at step 1 and at each multiple of D the rate becomes lr * decay ** (step / D)."""
    stairs = recipe(lr_decay_steps=6)
    rates = [learning_rate(stairs, 1e-3, 1, 1 + s // 5, s % 5, 5) for s in range(15)]
    expected, rate = [], None
    for step in range(1, 16):
        if step == 1 or step % 6 == 0:
            rate = 1e-3 * 0.9 ** (step / 6)
        expected.append(rate)
    assert rates == pytest.approx(expected, rel=1e-12)


def test_drops_take_the_factor_that_the_recipe_gives():
    dropping = recipe(lr_decay=1.0, lr_drop_every=4, lr_drop=0.9)
    rates = [learning_rate(dropping, 1.0, 1, epoch, 0, 5) for epoch in (1, 4, 5, 8, 9)]
    assert rates == pytest.approx([1, 1, 0.9, 0.9, 0.81])


def test_the_mean_square_and_a_share_of_the_absolute_error_by_hand():
    model = build_model('htnet', {'channels': 24, 'depth': 1, 'hidden': 8}, H36M, H36M)
    target = torch.zeros(1, 1, 17, 3)
    predicted = target.clone()
    predicted[..., 0] = 3.0
    predicted[..., 1] = -4.0
    losses = {kind: make_criterion(model, kind, H36M, torch.device('cpu'), share)(predicted, target).item()
              for kind, share in (('mse', 0.1), ('mpjpe', 0.01))}
    assert losses['mse'] == pytest.approx(0.9 * (9 + 16) / 3 + 0.1 * 7 / 3)
    assert losses['mpjpe'] == pytest.approx(0.99 * 5 + 0.01 * 7 / 3)
    assert mean_mpjpe(predicted, target) == 5


@pytest.mark.parametrize('name, amsgrad', [('adam', False), ('amsgrad', True)])
def test_adam_with_and_without_amsgrad(name, amsgrad):
    optimizer = make_optimizer(torch.nn.Linear(1, 1), recipe(optimizer=name, weight_decay=0.0))
    assert isinstance(optimizer, torch.optim.Adam) and not isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group['amsgrad'], group['betas'], group['eps']) == (amsgrad, (0.9, 0.999), 1e-8)


def test_warmup_rises_over_its_steps():
    warm = recipe(warmup=7)
    rates = [learning_rate(warm, 7e-3, 1, 1 + i // 5, i % 5, 5) for i in range(8)]
    assert rates[:5] == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3, 5e-3])
    assert rates[7] == pytest.approx(7e-3 * 0.9)


def test_finite_check_names_the_first_bad_step():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], fused=True)
    check = FiniteCheck(optimizer, torch.device('cpu'))
    good, bad = torch.tensor(1.0), torch.tensor(float('inf'))
    check.look(good, [good, torch.tensor(1e30)], 0)  # whose square overflows, and which is finite all the same
    assert check.failed_step() is None
    check.look(good, [good, bad], 1)
    check.look(bad, [good, good], 2)
    check.look(good, [good, good], 3)
    assert check.failed_step() == 1
    weight.grad = torch.ones(2)
    optimizer.step()
    assert weight.tolist() == [1, 1]


def test_moving_average_by_hand():
    model = torch.nn.BatchNorm1d(1)
    average = MovingAverage(model, 0.75)
    with torch.no_grad():
        model.weight.fill_(5)
        model.running_mean.fill_(8)
        model.num_batches_tracked.fill_(3)
    average.update(model)
    assert average.state['weight'].item() == 0.75 * 1 + 0.25 * 5
    assert average.state['running_mean'].item() == 2
    assert average.state['num_batches_tracked'].item() == 3
