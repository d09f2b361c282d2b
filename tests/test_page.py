"""The page of moving poses: what is in it is read back; its JavaScript runs in node against numpy, and in a browser."""

import base64
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from common.cli.parser import parse
from common.drawing import page as pages
from common.drawing.look import viewed_from
from common.drawing.page import packed, write_page
from common.skeleton import COCO, H36M

MOTION = Path(pages.__file__).with_name('motion.js')
needs_node = pytest.mark.skipif(shutil.which('node') is None, reason='node is not installed: apt install nodejs')
HOSTILE = '</script><img src=x onerror=alert(1)><!-- {{motion}} "\'& \udcff\u202e'


def moving(frames, joints=17, seed=0, dims=3, scale=1.0, fps=50):
    """Return (frames, joints, dims): each coordinate swings once a second by 0.2, around a place of its own."""
    draw = np.random.default_rng(seed)
    place, phase = draw.random((2, joints, dims))
    swing = 0.2 * np.sin(2 * np.pi * (np.arange(frames)[:, None, None] / fps + phase))
    return (scale * (place + swing)).astype(np.float32)


def unpacked(text, frames, unit):
    """Decode an array byte by byte: the format as its description has it."""
    numbers, value, bits = [], 0, 0
    for byte in base64.b64decode(text):
        value, bits = value + ((byte & 127) << bits), bits + 7
        if byte < 128:
            numbers.append(-(value + 1) // 2 if value % 2 else value // 2)
            value, bits = 0, 0
    return np.cumsum(np.array(numbers).reshape(frames, -1), axis=0) * unit


class Elements(HTMLParser):
    """Collects the tags of a page, its heading, and what each script holds."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_data(self, data):
        self.texts.setdefault(self.tags[-1] if self.tags else '', []).append(data)


def written(tmp_path, *args, **more):
    """Write a page; return what `write_page` returned, the page's text, and the motion in it."""
    path = tmp_path / 'page.html'
    result = write_page(path, H36M, *args, **more)
    text = path.read_text(encoding='utf-8')
    assert result.size == path.stat().st_size
    return result, text, json.loads(re.search(r'id="motion">(.*?)</script>', text, re.DOTALL)[1])


# ---- what is in the page ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('values, unit', [
    (np.array([[0.0], [-0.001], [0.063], [0.064], [-0.064], [5e9], [-5e9]]), 0.001),
    (np.array([[7], [8], [1_700_000_000_123], [0]]), 1), (moving(40), 0.001)], ids=['edges', 'frame numbers', 'poses'])
def test_packing_is_the_format_that_its_description_says(values, unit):
    back = unpacked(packed(values, unit), len(values), unit)
    np.testing.assert_allclose(back, values.reshape(len(values), -1), atol=unit / 2 + 1e-9)


def test_packing_has_the_bytes_of_a_calculation_by_hand():
    # 3 mm is 6; -2 mm is 5 less, 9; 100 mm is 102 more, 204 = 76 + 128: 76 with its highest bit set, then 1.
    assert base64.b64decode(packed(np.array([[0.003], [-0.002], [0.1]]), 0.001)) == bytes([6, 9, 76 + 128, 1])


def test_the_page_holds_the_poses_within_a_millimetre(tmp_path):
    first, second, truth = (moving(60, seed=seed) for seed in range(3))
    points = moving(60, seed=3, dims=2, scale=1000)
    clouds = np.stack([moving(60, seed=seed) for seed in range(4, 16)])
    numbers = np.arange(60) + 1000
    result, _, motion = written(tmp_path, {'one': first, 'two': second}, 50, truth=truth, keypoints=points, layout=COCO,
                                picture_size=(1920, 1080), numbers=numbers, hypotheses=clouds, azimuth=33)
    assert (result.frames, result.thinned, motion['frames'], motion['fps']) == (60, 1, 60, 50)
    assert [(one['name'], one['truth']) for one in motion['series']] == [
        ('one', False), ('two', False), ('ground truth', True)]
    for one, poses in zip(motion['series'], (first, second, truth), strict=True):
        back = unpacked(one['poses'], 60, 0.001).reshape(60, 17, 3)
        assert np.linalg.norm(back - poses, axis=-1).max() < 0.001
    errors = 1000 * np.sqrt(((second - truth) ** 2).sum(-1)).mean(-1)
    np.testing.assert_allclose(unpacked(motion['series'][1]['errors'], 60, 0.1)[:, 0], errors, atol=0.06)
    assert motion['series'][2]['errors'] is None
    assert len(motion['hypotheses']) == 10  # as many as a film shows
    assert np.abs(unpacked(motion['hypotheses'][9], 60, 0.001).reshape(60, 17, 3) - clouds[9]).max() < 0.001
    shown = motion['input']
    back = unpacked(shown['points'], 60, shown['unit']).reshape(60, 17, 2)
    assert np.abs(back - points).max() < 0.001 * (shown['box'][2] - shown['box'][0])
    assert shown['joints'] == list(COCO.joints) and shown['size'] == [1920, 1080]
    assert unpacked(motion['numbers'], 60, 1)[:, 0].tolist() == numbers.tolist()
    assert motion['joints'] == list(H36M.joints) and motion['azimuth'] == 33 and motion['elevation'] == 15
    sides = {H36M.joints[joint]: side for joint, _, side in motion['bones']}
    assert (sides['left_knee'], sides['right_wrist'], sides['head']) == (1, 2, 0)
    assert {(joint, parent) for joint, parent, _ in motion['bones']} == set(H36M.edges)


def test_limits_keep_the_speed_of_life(tmp_path):
    poses = moving(100)
    result, text, motion = written(tmp_path, {'prediction': poses}, 50, limit=30, step=4)
    assert (result.frames, result.thinned, motion['fps']) == (8, 1, 12.5)
    assert unpacked(motion['numbers'], 8, 1)[:, 0].tolist() == list(range(0, 30, 4))
    np.testing.assert_allclose(unpacked(motion['seconds'], 8, 0.01)[:, 0], np.arange(0, 30, 4) / 50)
    assert np.abs(unpacked(motion['series'][0]['poses'], 8, 0.001).reshape(8, 17, 3) - poses[:30:4]).max() < 0.001
    assert '8 frames, 50 frames a second: one in 4 of 30 is shown' in text and 'stays small' not in text


def test_three_thousand_frames_take_half_a_megabyte(tmp_path):
    result, _, _ = written(tmp_path, {'prediction': moving(3000)}, 50, keypoints=moving(3000, dims=2, scale=1000),
                           layout=H36M)
    assert result.size < 500_000


def test_a_long_clip_is_thinned_and_says_so(tmp_path):
    poses = np.broadcast_to(moving(1), (100_000, 17, 3))
    result, text, motion = written(tmp_path, {'prediction': poses}, 50)
    assert result.thinned == 2 and result.frames == motion['frames'] == 50_000 and result.size < 6e6
    assert motion['fps'] == 25
    assert '50,000 frames, 50 frames a second: one in 2 of 100,000 is shown, so that the page stays small' in text


def test_nothing_that_is_filled_in_becomes_part_of_the_page(tmp_path):
    plain = Elements(written(tmp_path, {'a': moving(2)}, 50, title='plain')[1])
    _, text, motion = written(tmp_path, {HOSTILE: moving(2)}, 50, title=HOSTILE)
    hostile = Elements(text)
    assert hostile.tags == plain.tags and 'img' not in hostile.tags
    seen = HOSTILE.replace('\udcff', '?').replace('\u202e', '?')
    assert ''.join(hostile.texts['h1']).strip() == ''.join(hostile.texts['title']).strip() == seen
    assert motion['series'][0]['name'] == seen


def test_the_page_asks_for_nothing_from_elsewhere(tmp_path):
    elements = Elements(written(tmp_path, {'a': moving(2)}, 50)[1])
    links = [value for _, name, value in elements.attributes if name in ('src', 'href', 'action', 'data')]
    assert links == ['data:,']  # the icon, lest a browser asks for one
    (policy,) = [value for tag, name, value in elements.attributes if tag == 'meta' and "default-src 'none'" in value]
    assert 'http' not in policy


@pytest.mark.parametrize('poses, words', [
    ({'a': moving(2), 'b': moving(3)}, 'one pose a frame'), ({'a': np.full((2, 17, 3), np.nan)}, 'NaN'),
    ({'a': np.zeros((0, 17, 3))}, 'one pose a frame')], ids=['lengths', 'NaN', 'none'])
def test_poses_that_cannot_be_drawn_are_refused(tmp_path, poses, words):
    with pytest.raises(ValueError, match=words):
        write_page(tmp_path / 'a.html', H36M, poses, 50)
    assert not list(tmp_path.iterdir())


def test_poses_out_of_all_bounds_are_cut_and_make_a_page(tmp_path):
    _, _, motion = written(tmp_path, {'a': moving(3) * np.float32(1e15)}, 50, truth=moving(3))
    assert np.abs(unpacked(motion['series'][0]['poses'], 3, 1)).max() == 2**52


def test_no_plot_library_is_imported():
    code = "import sys, common.drawing.page; assert not {'matplotlib', 'PIL', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', code], cwd=MOTION.parents[2], check=True)
    command = (MOTION.parents[1] / 'commands' / 'render.py').read_text()
    assert not re.search(r'^(from|import) .*(pictures|matplotlib)', command, re.MULTILINE)


@pytest.mark.parametrize('flags, words', [
    (['--viz-size', '2'], '--viz-size is for films'), (['--viz-bitrate', '9'], 'ends in .mp4'),
    (['--viz-video', 'a.mp4'], '--viz-video is drawn behind a film')])
def test_flags_that_a_page_would_ignore_are_refused(capsys, flags, words):
    for command in (['--render'], ['--predict', 'in.npy', '--output', 'o.npz', '--render']):
        with pytest.raises(SystemExit) as stop:
            parse(['--evaluate', 'x.bin', *command, '--viz-output', 'a.html', *flags])
        assert stop.value.code == 2 and words in capsys.readouterr().err


# ---- what the page computes, in node ----------------------------------------------------------------------------


def node(code, given=None):
    """Run JavaScript with motion.js as `m` and JSON as `given`; return what it passes to `tell`."""
    program = (f'const m = require({json.dumps(str(MOTION))}), '
               "given = JSON.parse(require('fs').readFileSync(0, 'utf-8')), "
               'tell = (value) => console.log(JSON.stringify(value));\n'
               # A canvas that remembers the lines that are stroked on it, with their colours.
               'const canvas = () => { const lines = []; let path = []; return new Proxy({lines}, {get(own, name) {\n'
               '  if (name in own) return own[name];\n'
               "  return (...a) => { if (name === 'beginPath') path = [];\n"
               "    else if (name === 'moveTo' || name === 'lineTo') path.push(a);\n"
               "    else if (name === 'stroke') lines.push([own.strokeStyle, own.lineWidth, ...path.flat()]); };\n"
               f'}}}}); }};\n{code}')
    done = subprocess.run(['node', '-e', program], input=json.dumps(given), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
def test_the_page_unpacks_what_was_packed():
    poses, numbers = moving(30, seed=5) - 0.5, np.array([5, 1_700_000_000_123, 0])
    back, width, told = node('const {values, width} = m.unpack(given.poses, 30, 0.001);'
                             'tell([[...values], width, [...m.unpack(given.numbers, 3).values]])',
                             {'poses': packed(poses, 0.001), 'numbers': packed(numbers, 1)})
    assert width == 51 and told == numbers.tolist()
    assert np.abs(np.reshape(back, (30, 17, 3)) - poses).max() < 0.00051


@needs_node
@pytest.mark.parametrize('azimuth', [-90, 0, 33, 250])
def test_the_page_sees_what_the_film_sees(azimuth):
    poses, centre = moving(3, seed=6).astype(np.float64), np.array([0.3, -0.2, 0.9])
    seen = node('tell([...m.project(given.poses, 51, 17, given.centre, m.axesOf(given), new Float64Array(51))])',
                {'poses': poses.ravel().tolist(), 'centre': centre.tolist(), 'azimuth': azimuth, 'elevation': 15})
    flat, nearness = viewed_from(poses[1] - centre, azimuth)
    np.testing.assert_allclose(np.reshape(seen, (17, 3)), np.column_stack([flat, nearness]), atol=1e-12)


@needs_node
def test_bones_are_drawn_where_they_are_seen_the_nearest_last():
    """From in front: a metre is scale pixels, the left side (side 1) is blue, the ghost lies behind."""
    pose = [[0.0, 0, 1], [0.5, -0.2, 1], [0, 0.4, 1.5]]  # azimuth -90: x to the right, nearer where y is less
    place, lines = node(
        "const c = canvas(), colours = {floor: 'f', grid: 'g', shadow: 's'};"
        'const scene = {bones: [[1, 0, 1], [2, 0, 0]], joints: 3, edge: 1, top: 2, tile: 0.5, colours};'
        "const pose = (style) => ({values: given.flat(), from: 0, centre: [0, 0, 1], style});"
        "m.drawView(c, 400, 300, scene, {azimuth: -90, elevation: 0, zoom: 2}, [pose({colour: 'grey', width: 3}),"
        "           pose({colours: ['middle', 'left', 'right'], width: 4})]);"
        'tell([m.placeOf(400, 300, 1, 2, 2), c.lines])', pose)
    x, y, scale = (place[name] for name in ('x', 'y', 'scale'))
    assert x == 200 and scale == pytest.approx(2 * min(400 / 2.9, 300 / 2.7))
    drawn = [line for line in lines if line[0] not in 'fgs']
    assert [line[:2] for line in drawn] == [['grey', 3], ['grey', 3], ['middle', 4], ['left', 4]]
    np.testing.assert_allclose(drawn[2][2:], [x, y, x, y - 0.5 * scale], atol=1e-9)
    np.testing.assert_allclose(drawn[3][2:], [x, y, x + 0.5 * scale, y], atol=1e-9)


@needs_node
def test_keypoints_are_drawn_as_they_lie_in_the_picture():
    lines = node("const input = {bones: [[1, 0, 2]], values: [0, 0, 9, 9, 10, 10, 30, 20], width: 4, size: null,"
                 "box: [0, 0, 40, 40]}, c = canvas();"
                 "m.drawInput(c, 200, 100, input, 1, {grid: 'g', sides: ['m', 'l', 'r']}); tell(c.lines)")
    assert lines == [['r', 3, 75, 25, 125, 50]]  # 2.5 pixels for one; the box's middle, 20, in the middle


@needs_node
def test_keys_change_the_state():
    state = {'frame': 10, 'playing': True, 'speed': 1, 'zoom': 1, 'azimuth': 0, 'elevation': 15}
    cases = [([' '], {'playing': False}), (['ArrowLeft'], {'frame': 9, 'playing': False}),
             (['ArrowRight'], {'frame': 11, 'playing': False}), (['Home'], {'frame': 0, 'playing': False}),
             (['End'], {'frame': 99, 'playing': False}), (['PageDown'], {'frame': 60, 'playing': False}),
             (['PageUp'], {'frame': 0, 'playing': False}), (['ArrowUp'], {'speed': 2}), (['ArrowDown'], {'speed': 0.5}),
             (['+'], {'zoom': 1.2}), (['-'], {'zoom': 1 / 1.2}), (['0'], {'reset': True}), (['x'], None),
             (['Tab'], None),
             (['ArrowRight', True], {'azimuth': -10, 'elevation': 15}),
             (['ArrowDown', True], {'azimuth': 0, 'elevation': 20})]
    told = node('tell(given.cases.map(([key, shift]) => m.keyed(given.state, key, shift, 100, 50)))',
                {'state': state, 'cases': [case for case, _ in cases]})
    for (case, wanted), got in zip(cases, told, strict=True):
        assert got == (pytest.approx(wanted) if wanted else wanted), case


@needs_node
def test_playing_scrubbing_turning_and_zooming_stay_in_their_bounds():
    told = node('''tell({
        over: m.advance(98.5, 0.1, 50, 1, 100), slow: m.advance(3, 0.1, 50, 0.5, 100), one: m.advance(0, 1, 50, 1, 1),
        ends: [-50, m.acrossCurve(0, 500, 100), m.acrossCurve(42, 500, 100), 600].map((x) => m.scrubbed(x, 500, 100)),
        narrow: m.scrubbed(5, 0, 100), up: m.dragged({azimuth: 0, elevation: 80}, 0, 500).elevation,
        down: m.dragged({azimuth: 0, elevation: 80}, 0, -500).elevation, near: m.zoomed(7, 10), far: m.zoomed(1, 0),
        steps: [220, 9, 0.5, 1e6].map(m.roundStep),
        tiles: [1, 50, 1e5].map((edge) => m.tileOf(0.5, edge))})''')
    assert told == {'over': 3.5, 'slow': 5.5, 'one': 0, 'ends': [0, 0, 42, 99], 'narrow': 0, 'up': 90, 'down': -30,
                    'near': 8, 'far': 0.25, 'steps': [100, 2, 0.2, 500000], 'tiles': [0.5, 5, 5000]}


# ---- in a browser -----------------------------------------------------------------------------------------------


# Does what a visitor does, and puts into the page what came of it: was the picture of the poses another one?
VISITOR = """
Element.prototype.setPointerCapture = () => {};  // there is no real pointer
window.requestAnimationFrame = (draw) => setTimeout(() => draw(performance.now()), 5);  // nor a screen
addEventListener('load', async () => {
  const id = (name) => document.getElementById(name), told = {};
  const drawn = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(
    () => done(document.querySelector('.view canvas').toDataURL()))));
  const pointer = (kind, x, y) => document.querySelector('.view canvas').dispatchEvent(
    new PointerEvent(kind, {pointerId: 1, clientX: x, clientY: y}));
  const key = (name) => document.body.dispatchEvent(new KeyboardEvent('keydown', {key: name, bubbles: true}));
  await drawn();
  key('0');  // drawn once more, as after the other moves
  const first = await drawn();
  pointer('pointermove', 90, 90);
  told.moved = await drawn() !== first;
  pointer('pointerdown', 100, 100); pointer('pointermove', 180, 120); pointer('pointerup', 180, 120);
  told.dragged = await drawn() !== first;
  pointer('pointermove', 90, 90);
  key('0');
  told.reset = await drawn() === first;
  document.querySelector('.view canvas').dispatchEvent(new WheelEvent('wheel', {deltaY: -300, cancelable: true}));
  told.zoomed = await drawn() !== first;
  key('0');
  id('scrub').value = 7;
  id('scrub').dispatchEvent(new Event('input'));
  await drawn();
  told.scrubbed = id('clock').textContent;
  key('End');
  const last = await drawn();
  told.end = [id('clock').textContent, id('scrub').value, last !== first];
  id('layout').value = 'one';
  id('layout').dispatchEvent(new Event('change'));
  await drawn();
  told.views = document.querySelectorAll('.view').length;
  const [, , truth] = id('shown').querySelectorAll('input');
  const before = await drawn();
  truth.click();
  told.hidden = await drawn() !== before;
  key(' ');
  told.playing = (await drawn(), id('play').textContent);
  key(' ');
  told.paused = (await drawn(), id('play').textContent);
  document.body.append(Object.assign(document.createElement('pre'), {textContent: JSON.stringify(told)}));
});
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('chromium') is None, reason='no browser is installed: apt install chromium')
def test_a_browser_draws_it_and_follows_pointers_and_keys(tmp_path):
    _, text, _ = written(tmp_path, {'prediction': moving(20), HOSTILE: moving(20, seed=2)}, 50, title=HOSTILE,
                         truth=moving(20, seed=1), keypoints=moving(20, dims=2, scale=900), layout=H36M)
    visited = tmp_path / 'visited.html'
    visited.write_text(text.replace('</head>', f'<script>{VISITOR}</script></head>', 1), encoding='utf-8')
    done = subprocess.run(['chromium', '--headless', '--no-sandbox', '--disable-gpu', '--force-prefers-reduced-motion',
                           f'--user-data-dir={tmp_path / "profile"}', '--window-size=1280,800',
                           '--virtual-time-budget=10000', '--dump-dom', visited.as_uri()],
                          capture_output=True, text=True, timeout=120)
    elements = Elements(done.stdout)
    assert json.loads(elements.texts['pre'][0]) == {
        'moved': False, 'dragged': True, 'reset': True, 'zoomed': True, 'scrubbed': 'frame 7, 0.14 s',
        'end': ['frame 19, 0.38 s', '19', True], 'views': 1, 'hidden': True, 'playing': 'Pause', 'paused': 'Play'}
    assert 'img' not in elements.tags and 'Error over time: prediction' in done.stdout


def test_the_clock_shows_when_a_frame_was(tmp_path):
    """Of every second frame of 30 a second, and of frames that come unevenly, numbers over the rate would not."""
    seconds = np.array([0, 2, 4, 9]) / 30
    _, _, motion = written(tmp_path, {'prediction': moving(4)}, 15, numbers=np.array([0, 2, 4, 9]), seconds=seconds)
    np.testing.assert_allclose(unpacked(motion['seconds'], 4, 0.01)[:, 0], seconds, atol=0.006)
