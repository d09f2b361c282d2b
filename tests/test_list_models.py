"""--models: what stands in the list of models, and that its figures are computed, not typed in."""

import torch

from common.commands.list_models import describe, multiply_adds, told
from common.models import MODELS, build_model, model_class
from common.recipe import KEYPOINTS, Published
from common.skeleton import H36M


def test_every_model_is_listed_with_paper_and_figures(run):
    status, out, err = run('--models')
    assert (status, err) == (0, '')
    for name in MODELS:
        kind = model_class(name)
        assert f'\n{name}: {kind.title}, {kind.paper}\n' in out
        lifts = kind.recipe.joints != KEYPOINTS
        assert kind.paper and (kind.results or not (kind.public_keys and lifts))
        assert all(told(figure) in out for figure in kind.results)


def test_parameters_and_multiply_adds_by_hand():
    lines = describe('ktpformer').splitlines()
    assert '35,213,430 parameters' in lines[2]
    model = build_model('ktpformer', {'frames': 3, 'channels': 16, 'depth': 1, 'kpa': False, 'tpa': False}, H36M, H36M)
    tokens, c, ratio = 3 * 17, 16, 2
    weights = 4 * tokens * (3 + 1 + 2 * ratio) * c * c  # four blocks: queries, keys, values, output, MLP
    between_tokens = 2 * 2 * tokens * (17 + 3) * c  # two blocks over joints, two over frames, two products each
    by_hand = 2 * tokens * c + weights + between_tokens + 3 * tokens * c
    assert multiply_adds(model, 17) * 3 == by_hand


def test_a_figure_is_told_with_its_source_and_what_it_reads():
    line = told(Published('CPN', 1, 47.6, None, 'paper', 'refined')).strip()
    assert line == '47.6 / –  CPN, 1 frame, refined [paper]'


def test_counting_leaves_no_model_behind():
    assert all(p.device.type == 'cpu' for p in build_model('htnet', {}, H36M, H36M).parameters())
    assert torch.get_default_device().type == 'cpu'
