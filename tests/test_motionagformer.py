"""The graphs of MotionAGFormer by hand: its links, its choice of frames, its mixers, and several processes."""

import numpy as np
import pytest
import torch
from processes import ROOT, run_alone

from common.models import motionagformer
from common.models.motionagformer import FrameGraph, JointGraph, in_three_parts, likeness, links, nearest, normalised
from common.skeleton import COCO, H36M, HUMANEVA15, MPI_INF_3DHP, Skeleton

# As they are published, hand by hand: what each joint reads.
PUBLISHED = {0: (1, 7), 1: (0, 2), 2: (1, 3), 3: (2,), 4: (0, 5), 5: (4, 6), 6: (5,), 7: (0, 8), 8: (7, 9), 9: (8, 10),
             10: (9,), 11: (8, 12), 12: (11, 13), 13: (12,), 14: (8, 15), 15: (14, 16), 16: (15,)}


@pytest.mark.parametrize('layout', [H36M, MPI_INF_3DHP], ids=lambda layout: layout.name)
def test_links_are_the_published_ones_whatever_the_order_of_joints(layout):
    found = {row: tuple(np.flatnonzero(links(layout)[row]).tolist()) for row in range(17)}
    assert found == PUBLISHED


@pytest.mark.parametrize('layout', [COCO, HUMANEVA15, Skeleton('h36m', H36M.joints[:5], H36M.parents[:5])],
                         ids=lambda layout: f'{layout.name} {len(layout)}')
def test_links_of_other_layouts_are_their_bones(layout):
    graph = links(layout)
    assert (graph == graph.T).all() and not graph.diagonal().any()
    assert graph.sum() == 2 * len(layout.edges) and all(graph[a, b] == 1 for a, b in layout.edges)


def naive_normalised(graph):
    """Divide links one by one by the roots of the degrees of both ends: a row's links, not a column's."""
    degree = [sum(row) for row in graph.tolist()]
    return torch.tensor([[graph[i, j] / (degree[i] * degree[j]) ** 0.5 if degree[i] and degree[j] else 0.0
                          for j in range(len(graph))] for i in range(len(graph))])


def test_links_are_divided_by_the_degrees_of_both_ends():
    torch.testing.assert_close(normalised(links(H36M)), naive_normalised(links(H36M)))
    alone = normalised(torch.zeros(1, 1))
    assert not alone.any()  # a single joint has no link, and no degree to divide by


def naive_batch_norm(norm, values):
    """Normalise values (nodes, others) node by node, by what they have now."""
    rows = []
    for node, row in enumerate(values):
        spread = ((row - row.mean()) ** 2).mean()
        rows.append((row - row.mean()) / (spread + 1e-5).sqrt() * norm.weight[node] + norm.bias[node])
    return torch.stack(rows)


def shuffled(mixer):
    with torch.no_grad():
        for p in mixer.parameters():
            p += 0.5 * torch.randn_like(p)
    return mixer.double()


@pytest.mark.parametrize('kind', ['joints', 'frames'])
def test_mixers_are_those_of_loops(kind):
    """Frames 2 to 4 of a track are the same, as past the end of a sequence: ties are linked all."""
    x = torch.randn(2, 6, 17, 8).double()
    x[:, 3:5] = x[:, 2, None]
    mixer = shuffled(JointGraph(8, links(H36M)) if kind == 'joints' else FrameGraph(8, 6, 2))
    u, v = mixer.U(x), mixer.V(x)
    mixed = u.clone()
    for window in range(2):
        for t in range(6) if kind == 'joints' else ():
            mixed[window, t] += naive_normalised(links(H36M)).double() @ v[window, t]
        for j in range(17) if kind == 'frames' else ():
            track, graph = x[window, :, j], torch.zeros(6, 6)
            for i in range(6):
                products = [float((track[i] * track[k]).sum()) for k in range(6)]
                least = sorted(products)[-2]
                for k in range(6):
                    graph[i, k] = products[k] >= least - 1e-9
            mixed[window, :, j] += naive_normalised(graph).double() @ v[window, :, j]
    axis = 2 if kind == 'joints' else 1
    nodes = mixed.movedim(axis, 0)
    expected = naive_batch_norm(mixer.batch_norm, nodes.flatten(1)).view_as(nodes).movedim(0, axis)
    torch.testing.assert_close(mixer.train()(x), torch.relu(x + expected), rtol=1e-6, atol=1e-6)
    assert mixer.batch_norm.momentum == 0.1 and mixer.batch_norm.eps == 1e-5


def test_no_gradient_passes_through_the_choice():
    x = torch.randn(3, 6, 8, requires_grad=True)
    assert not nearest(x, 2).requires_grad
    assert (nearest(x, 2) > 0).sum(-1).eq(2).all()
    with torch.no_grad():
        scaled = 1.01 * x
    torch.testing.assert_close(nearest(scaled, 2), nearest(x, 2))  # a choice, which no scale changes


def test_frames_are_chosen_in_float32_whatever_the_tokens():
    x = torch.randn(4, 40, 16).bfloat16()
    assert likeness(x).dtype == torch.float32
    torch.testing.assert_close(likeness(x), x.float() @ x.float().mT)
    graph = nearest(x, 2)
    assert graph.dtype == torch.bfloat16
    torch.testing.assert_close(graph > 0, nearest(x.float(), 2) > 0)


def tf32(x):
    """Round as the units of CUDA do before they multiply: to 10 bits behind the point."""
    return (x.view(torch.int32) + 0x1000 >> 13 << 13).view(torch.float32)


def test_three_parts_make_products_exact_where_factors_are_rounded():
    """Frames of slow motion, of whom TF32 would choose others."""
    x = torch.nn.functional.layer_norm(torch.randn(3, 1, 64) + 0.003 * torch.randn(3, 40, 64).cumsum(1), (64,))
    exact = x.double() @ x.double().mT
    left, right = (tf32(part) for part in in_three_parts(x))
    assert ((left.double() @ right.double().mT - exact).abs() / exact.abs()).max() < 1e-6
    rough = tf32(x).double() @ tf32(x).double().mT
    assert ((rough - exact).abs() / exact.abs()).max() > 1e-5
    least = exact.topk(2).values[..., -1:]
    chosen = exact >= least
    assert ((rough >= rough.topk(2).values[..., -1:]) != chosen).any()


SHARES = """
import sys
sys.path.insert(0, {root!r})
import torch
from common import distributed
from common.losses import motion_loss
from common.models import build_model
from common.skeleton import H36M

with distributed.join('cpu') as world:
    for shares in ([(0, 2), (2, 5)], [(0, 0), (0, 5)]):  # unequal ones, and a process without windows
        models = []
        for number in range(2):
            torch.manual_seed(0)
            model = build_model('motionagformer', {{'frames': 6, 'channels': 16, 'depth': 2}}, H36M, H36M).double()
            for name, p in model.named_parameters():
                if 'layer_scale' in name:
                    torch.nn.init.ones_(p)
            models.append(model)
        distributed.make_batch_norms_global(models[1])
        x, y = torch.randn(5, 6, 17, 3).double(), torch.randn(5, 6, 17, 3).double()
        begin, end = shares[world.rank]
        whole, part = models[0](x), models[1](x[begin:end])
        torch.testing.assert_close(part, whole[begin:end])
        motion_loss(whole, y).backward()
        (motion_loss(part, y[begin:end]) * (end - begin) / 5 if end > begin else part.sum()).backward()
        world.sum_gradients(models[1])
        for (name, p), q in zip(models[0].named_parameters(), models[1].parameters()):
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-6, atol=1e-8, msg=name)
        for key, value in models[0].state_dict().items():
            torch.testing.assert_close(models[1].state_dict()[key], value, msg=key)
"""


def test_two_processes_are_one(tmp_path):
    """Outputs, gradients and statistics, with branches that are not scaled down to nothing."""
    script = tmp_path / 'shares.py'
    script.write_text(SHARES.format(root=str(ROOT)))
    status, _, err = run_alone(script, ranks=2)
    assert status == 0, err


@pytest.mark.slow
def test_it_is_compiled_in_one_graph():
    model, graphs = motionagformer.MotionAGFormer(motionagformer.MotionAGFormerConfig(6, 16, 2), H36M, H36M), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward
    torch._dynamo.reset()
    model.compile(dynamic=False, backend=count)
    model(torch.randn(2, 6, 17, 3))
    assert len(graphs) == 1
