"""The yardstick of the benchmarks computes what the program computes: outputs and gradients, equal weights."""

import pytest
import torch
from test_ktpformer import relative

from benchmarks import reference
from common import graph
from common.models import build_model
from common.skeleton import H36M


def adjacency():
    return torch.from_numpy(graph.adjacency(len(H36M), H36M.edges))


MODELS = {
    'ktpformer': (lambda: reference.KTPFormer(adjacency(), torch.from_numpy(graph.chain(9)), 48, 2, drop_path=0),
                  {'frames': 9, 'channels': 48, 'depth': 2}, {}),
    'htnet': (lambda: reference.HTNet(adjacency(), 48, 2, 64, drop_path=(0, 0), dropout=0),
              {'channels': 48, 'depth': 2, 'hidden': 64}, {'dropout': 0}),
}


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('train', [False, True], ids=['eval', 'train'])
def test_the_yardstick_computes_the_same(name, train):
    torch.manual_seed(0)
    make, config, rates = MODELS[name]
    ours, theirs = build_model(name, config, H36M, H36M, 0, **rates), make()
    with torch.no_grad():
        for p in ours.parameters():
            p += 0.05 * torch.randn_like(p)
    theirs.load_state_dict(ours.state_dict())
    frames = ours.frames
    x, slope = torch.randn(3, frames, 17, 2), torch.randn(3, frames, 17, 3)
    outputs = []
    for model in (ours, theirs):
        out = model.train(train)(x)
        (out * slope).sum().backward()
        outputs.append(out)
    assert relative(*outputs) < 2e-6
    gradients = {key: p.grad for key, p in theirs.named_parameters()}
    for key, p in ours.named_parameters():
        if not key.endswith('gconv.bias'):  # zero in front of a batch norm, but for rounding
            assert relative(p.grad, gradients[key]) < 1e-3, key
