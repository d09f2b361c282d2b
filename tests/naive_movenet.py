"""MoveNet's published graph, node by node in numpy: a second implementation that knows nothing of the network."""

import base64
import json

import numpy as np


def read(path):
    """Return the nodes of the graph at PATH.json, and the weights by name of PATH.bin."""
    graph, data, at, weights = json.loads(path.read_text()), path.with_suffix('.bin').read_bytes(), 0, {}
    for entry in graph['weightsManifest'][0]['weights']:
        kind = np.dtype('<f2' if 'quantization' in entry else '<i4')
        size = kind.itemsize * int(np.prod(entry['shape'], dtype=int))
        values = np.frombuffer(data[at:at + size], kind).reshape(entry['shape'])
        weights[entry['name']] = values.astype(np.float32) if kind.kind == 'f' else values
        at += size
    return graph['modelTopology']['node'], weights


def convolve(x, weight, stride, padding, depthwise):
    """TensorFlow's convolution of (1, H, W, in): the odd row and column of padding come last."""
    height, width = weight.shape[:2]
    if padding == 'SAME':
        size = [-(-n // stride) for n in x.shape[1:3]]
        total = [max(0, (size[i] - 1) * stride + weight.shape[i] - x.shape[1 + i]) for i in range(2)]
        x = np.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in total), (0, 0)))
    else:
        size = [(x.shape[1 + i] - weight.shape[i]) // stride + 1 for i in range(2)]
    result = 0
    for row in range(height):
        for column in range(width):
            part = x[:, row:row + (size[0] - 1) * stride + 1:stride, column:column + (size[1] - 1) * stride + 1:stride]
            result = result + (part * weight[row, column, :, 0] if depthwise else part @ weight[row, column])
    return result


def resize(x, size):
    """Bilinear, with pixels as squares (half_pixel_centers), over rows and then over columns of (1, H, W, C)."""
    for axis, new in enumerate(size, 1):
        old = x.shape[axis]
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(place).astype(int)
        shape = [1] * 4
        shape[axis] = new
        share = (place - low).reshape(shape).astype(np.float32)
        x = x.take(low, axis) * (1 - share) + x.take(np.minimum(low + 1, old - 1), axis) * share
    return x


def texts(attribute):
    return [base64.b64decode(text).decode() for text in attribute]


def convolution(node, inputs):
    attr = node['attr']
    assert set(attr['dilations']['list']['i']) == {'1'}
    x = convolve(*inputs[:2], int(attr['strides']['list']['i'][1]), texts([attr['padding']['s']])[0],
                 'Depthwise' in node['op'])
    for fused in texts(attr['fused_ops']['list']['s']) if 'fused_ops' in attr else ():
        x = {'BiasAdd': lambda x: x + inputs[2], 'Relu': lambda x: np.maximum(x, 0),
             'Relu6': lambda x: np.clip(x, 0, 6)}[fused](x)
    return x


def bilinear(node, inputs):
    assert node['attr']['half_pixel_centers']['b'] and not node['attr']['align_corners']['b']
    return resize(*inputs)


def axis_of(node):
    return int(node['attr']['axis'].get('i', 0))


# Each maps (node, inputs) to a value, or to a list of several.
OPERATIONS = {
    '_FusedConv2D': convolution, 'FusedDepthwiseConv2dNative': convolution, 'DepthwiseConv2dNative': convolution,
    'ResizeBilinear': bilinear,
    'Cast': lambda node, x: x[0].astype({'DT_FLOAT': np.float32, 'DT_INT32': np.int32}[node['attr']['DstT']['type']]),
    'Unpack': lambda node, x: list(np.moveaxis(x[0], axis_of(node), 0)),
    'Pack': lambda node, x: np.stack(x, axis_of(node)),
    'ConcatV2': lambda node, x: np.concatenate(x[:-1], int(x[-1])),
    'ExpandDims': lambda node, x: np.expand_dims(x[0], int(x[1])),
    'Squeeze': lambda node, x: x[0].squeeze(tuple(map(int, node['attr']['squeeze_dims']['list']['i']))),
    'Reshape': lambda node, x: x[0].reshape(x[1]),
    'GatherNd': lambda node, x: x[0][tuple(np.moveaxis(x[1], -1, 0))],
    'ArgMax': lambda node, x: x[0].argmax(int(x[1])),
    'AddV2': lambda node, x: x[0] + x[1], 'Sub': lambda node, x: x[0] - x[1], 'Mul': lambda node, x: x[0] * x[1],
    'RealDiv': lambda node, x: x[0] / x[1], 'FloorDiv': lambda node, x: x[0] // x[1],
    'SquaredDifference': lambda node, x: (x[0] - x[1])**2, 'Sqrt': lambda node, x: np.sqrt(x[0]),
    'Sigmoid': lambda node, x: 1 / (1 + np.exp(-np.clip(x[0], -80, 80))), 'Identity': lambda node, x: x[0],
}


def run(path, picture):
    """Return (17, 3) y, x in shares of the picture and score, of a picture (S, S, 3) uint8."""
    nodes, values = read(path)

    def value(name):
        name, _, which = name.partition(':')
        found = values[name]
        return found[int(which or 0)] if isinstance(found, list) else found

    for node in nodes:
        if node['op'] == 'Placeholder':
            values[node['name']] = picture[None].astype(np.int32)
        elif node['op'] != 'Const':
            values[node['name']] = OPERATIONS[node['op']](node, [value(name) for name in node['input']])
    return values['Identity'][0, 0]
