"""The numbers that plots show, and that every plot is drawn and readable without colour."""

import numpy as np
import pytest
from PIL import Image

from common.drawing import plots as render
from common.evaluation import figures
from common.models.ktpformer import KTPFormer
from common.skeleton import H36M


def rows_of(offsets, refined=None):
    """Return frames whose joint j is off by offsets[frame, j] millimetres, of two sequences of equal length."""
    offsets = np.asarray(offsets, np.float32)
    frames = len(offsets)
    truth = np.random.default_rng(0).normal(size=(*offsets.shape, 3)).astype(np.float32)
    rows = {'truth': truth, 'prediction': truth + offsets[..., None] / 1000 * np.float32([0, 0.6, 0.8]),
            'subject': np.array(['S9'] * frames), 'camera': np.zeros(frames, int),
            'action': np.array(['Sitting 1'] * (frames // 2) + ['Walking'] * (frames - frames // 2)),
            'frame': np.concatenate([np.arange(frames // 2), np.arange(frames - frames // 2)])}
    if refined is not None:
        rows['refined'] = truth + np.float32([refined / 1000, 0, 0])
    return rows


def test_errors_by_joint_are_means_over_frames():
    offsets = np.tile(np.arange(17) * 10.0, (4, 1))
    offsets[0] += 40
    data = figures.by_joint(rows_of(offsets, refined=7), H36M.joints)
    assert data['names'] == list(H36M.joints)
    assert data['series']['predicted'] == pytest.approx(np.arange(17) * 10 + 10, abs=1e-3)
    assert data['series']['refined'] == pytest.approx(np.full(17, 7), abs=1e-3)


def test_the_worst_sequences_come_first():
    offsets = np.concatenate([np.full((3, 17), 20.0), np.full((3, 17), 50.0)])
    offsets[4] = 80
    worst = figures.worst_sequences(rows_of(offsets))
    assert [name for name, _, _ in worst] == ['S9 Walking, camera 0: mean 60.0 mm',
                                              'S9 Sitting 1, camera 0: mean 20.0 mm']
    assert worst[0][1].tolist() == [0, 1, 2]
    assert worst[0][2] == pytest.approx([50, 80, 50], abs=1e-3)
    many = rows_of(np.full((10, 17), 5.0))
    many['camera'] = np.arange(10)
    assert len(figures.worst_sequences(many)) == figures.WORST


def test_pck_counts_the_joints_asked_for():
    offsets = np.full((4, 17), 200.0)
    offsets[:, 1], offsets[:2, 2] = 12, 62
    data = figures.pck_curves(rows_of(offsets), [1, 2, 3, 4])
    shares = dict(zip(data['thresholds'], data['series']['predicted'], strict=True))
    assert data['thresholds'][0] == 0 and data['thresholds'][-1] == 150
    assert shares[0] == shares[10] == 0
    assert shares[15] == shares[60] == pytest.approx(25)
    assert shares[65] == shares[150] == pytest.approx(37.5)


def test_bars_stand_beside_what_was_published():
    names = list(KTPFormer.published['h36m', 'cpn_ft_h36m_dbb'][1])
    assert len(names) == 15
    rows = {'predicted': {name: {'mpjpe': 40.0 + k, 'p_mpjpe': 30.0 + k} for k, name in enumerate(names)}}
    average = {'predicted': {'mpjpe': 47.0, 'p_mpjpe': None}}
    data = figures.bars(rows, average, KTPFormer.published['h36m', 'cpn_ft_h36m_dbb'])
    assert data['names'] == [*names, 'average']
    assert data['series'] == {'MPJPE': [40.0 + k for k in range(15)] + [47.0],
                              'P-MPJPE': [30.0 + k for k in range(15)] + [None]}
    source, row = data['published']
    assert 'P-MPJPE' in source and row[0] == 30.1 and row[-1] == pytest.approx(31.86)
    part = {'predicted': {'Photo': rows['predicted']['Photo'], 'Mine': rows['predicted']['Photo']}}
    row = figures.bars(part, average, KTPFormer.published['h36m', 'cpn_ft_h36m_dbb'])['published'][1]
    assert row[0] == 37.3 and np.isnan(row[1:]).all()  # an average of some actions was not published
    assert figures.bars(rows, average)['published'] is None


def test_plots_are_written_and_readable_in_grey(run, trained, h36m_folder, tmp_path):
    status, out, err = run('-c', trained[0], '--data', h36m_folder, '--evaluate', 'best.bin', '--plots',
                           tmp_path / 'plots', '--device', 'cpu')
    assert (status, err) == (0, '')
    assert f'plots: {tmp_path / "plots"}' in out
    assert sorted(path.name for path in (tmp_path / 'plots').iterdir()) == ['actions.png', 'joints.png', 'pck.png',
                                                                          'worst.png']
    for path in (tmp_path / 'plots').iterdir():
        with Image.open(path) as picture:
            grey = np.asarray(picture.convert('L'))
        assert (grey < 150).sum() > 500 and (grey == 255).mean() > 0.3
    brightness = [sum(int(colour[k:k + 2], 16) * part for k, part in ((1, 0.3), (3, 0.59), (5, 0.11)))
                  for colour, _, _ in render.STYLES[:2]]
    assert brightness[1] - brightness[0] > 60
    assert len({hatch for _, hatch, _ in render.STYLES}) == len({dash for *_, dash in render.STYLES}) == 4
    run('-c', trained[0], '--data', h36m_folder, '--evaluate', 'best.bin', '--plots', tmp_path / 'plots', '--device',
        'cpu')  # a second time, over the first


def test_plots_into_unwritable_folders_are_refused(refused, trained, h36m_folder, tmp_path):
    flags = ('-c', trained[0], '--data', h36m_folder, '--evaluate', 'best.bin', '--device', 'cpu', '--plots')
    assert 'missing or read-only' in refused(1, *flags, tmp_path / 'a' / 'b')
    (tmp_path / 'file').touch()
    assert 'not a folder' in refused(1, *flags, tmp_path / 'file')
    assert 'leaves out' in refused(2, '--no-eval', '--plots', tmp_path / 'c')


def test_an_action_of_one_frame_and_gaps_are_drawn(tmp_path):
    render.plot_worst([('one', np.array([4]), np.array([3.0])),
                       ('gap', np.array([1, 2, 9, 10]), np.array([1.0, 2.0, 3.0, 4.0]))], tmp_path / 'a.png')
    bars = {'names': ['left_hip'], 'series': {'a': [None]}, 'published': ('b', [2.0])}
    render.plot_bars(bars, 'c', tmp_path / 'b.png')
    assert len(list(tmp_path.iterdir())) == 2


def test_the_worst_errors_are_within_the_picture(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(render, '_save', lambda figure, path, note='': drawn.extend(figure.axes))
    render.plot_worst([('flat', np.arange(9), np.full(9, 200.0)), ('peak', np.arange(9), np.arange(9) * 100.0)],
                      tmp_path / 'a.png')
    assert [axes.get_ylim()[0] for axes in drawn] == [0, 0] and min(axes.get_ylim()[1] for axes in drawn) > 800


def test_every_series_is_drawn_in_a_style_of_its_own(monkeypatch, tmp_path):
    """Three predictions and two metrics make six: none is left out, no two look alike."""
    drawn = []
    monkeypatch.setattr(render, '_save', lambda figure, path, note='': drawn.append(figure.axes[0]))
    series = {f'series {k}': [float(k), 2.0] for k in range(6)}
    render.plot_bars({'names': ['a', 'b'], 'series': series}, 'title', tmp_path / 'a.png')
    render.plot_pck({'thresholds': [0, 5], 'series': series}, tmp_path / 'b.png')
    bars, curves = drawn
    assert [bar.get_label() for bar in bars.containers] == list(series)
    assert len({(bar[0].get_facecolor(), bar[0].get_hatch()) for bar in bars.containers}) == 6
    assert len({(line.get_color(), line.get_marker()) for line in curves.lines}) == 6
    render.plt.close('all')
