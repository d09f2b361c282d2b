import math

import pytest
import torch

from common.config import Train
from common.training.optimiser import FiniteCheck, MovingAverage, learning_rate


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
