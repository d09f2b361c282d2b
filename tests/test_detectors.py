"""Files of detectors as their documentation shows them: the values that come out, and what is refused."""

import gzip
import json
import os
import time

import keypoint_files as files
import numpy as np
import pytest
from test_predict import clip

from common.errors import FileError, FlagError
from common.keypoints import read_track, registry
from common.keypoints.bones import evenness
from common.keypoints.known import LAYOUTS, joint_name, layout_of_names
from common.keypoints.layouts import find_layout, read_names
from common.keypoints.names import videos_of
from common.skeleton import COCO, H36M

SIZE = (1000, 1002)
T = 12
WRITERS = {
    files.alphapose_open: ('openpose18', 0), files.alphapose_cmu: ('openpose18', 0),
    files.alphapose_separate: ('openpose18', 0), files.poseflow: ('coco', 0), files.openpose_nulls: ('body25', 0),
    files.tfpose: ('openpose18', 0), files.controlnet: ('openpose18', 0), files.controlnet_shares: ('openpose18', 0),
    files.mmpose_pictures: ('coco', 0), files.mmpose_generator: ('coco', 0), files.mmpose_merged: ('coco', 0),
    files.sapiens: ('sapiens308', 0), files.huggingface: ('coco', 0), files.ultralytics_list: ('coco', 0),
    files.ultralytics_folder: ('coco', 0), files.ultralytics_labels: ('coco', 1),
    files.ultralytics_labels_tracked: ('coco', 1), files.ultralytics_xy: ('coco', 0), files.rtmlib: ('wholebody133', 0),
    files.rtmlib_ragged: ('coco', 0), files.mmaction: ('coco', 0), files.pifpaf_lines: ('coco', 1),
    files.pifpaf_folder: ('coco', 0), files.stgcn: ('coco', 1), files.stgcn_shares: ('openpose18', 1),
    files.vitpose: ('coco25', 0), files.mediapipe_array: ('mediapipe33', 0), files.mediapipe_json: ('mediapipe33', 0),
    files.movenet: ('coco', 0), files.movenet_multipose: ('coco', 0), files.tensorflow_js: ('coco', 0),
    files.coco_annotations: ('coco', 0), files.coco_unlabelled: ('coco', 0), files.coco_results: ('coco', 0),
}
NO_SCORES = (files.tfpose, files.ultralytics_xy, files.coco_annotations, files.coco_unlabelled)
SAY_THE_SIZE = (files.controlnet, files.controlnet_shares, files.coco_annotations)
SHARES = (files.ultralytics_labels, files.ultralytics_labels_tracked, files.stgcn_shares, files.mediapipe_array,
          files.mediapipe_json, files.movenet, files.movenet_multipose)
NUMBERED = {files.poseflow: 3, files.ultralytics_folder: 4, files.ultralytics_labels_tracked: 4,
            files.coco_annotations: 5, files.vitpose: 0}
each_writer = pytest.mark.parametrize('write', WRITERS, ids=lambda write: write.__name__)


def keypoints_of(layout, frames=T):
    """Return (T, K, 3) of a walk in a layout: eyes and ears where they are, and scores that tell points apart."""
    _, pixels = clip(frames)
    points = files.in_layout(pixels, layout)
    tall = np.ptp(pixels[..., 1])
    for n, name in enumerate(layout.joints):
        aside = {'left_eye': (0.015, -0.02), 'right_eye': (-0.015, -0.02), 'left_ear': (0.04, -0.01),
                 'right_ear': (-0.04, -0.01)}.get(name)
        if aside:
            points[:, n] = pixels[:, H36M.joints.index('neck')] + tall * np.array(aside)
    scores = np.broadcast_to(np.linspace(0.6, 0.97, len(layout)), points.shape[:2])
    return np.concatenate([points, scores[..., None]], axis=-1)


@each_writer
def test_what_a_detector_writes_comes_out(tmp_path, write):
    name, first = WRITERS[write]
    keypoints = keypoints_of(LAYOUTS[name])
    track = read_track(write(tmp_path / 'in', keypoints, SIZE), size=SIZE)
    np.testing.assert_allclose(track.points, keypoints[..., :2], rtol=1e-5)
    np.testing.assert_allclose(track.scores, 1 if write in NO_SCORES else keypoints[..., 2], rtol=1e-5)
    assert track.frames.tolist() == list(range(first, first + T))
    assert track.size == (SIZE if write in SAY_THE_SIZE else None)
    assert find_layout(track.points, 'auto', track.layouts, 'x')[0].name == name
    if write in NUMBERED:
        assert f'number {NUMBERED[write]} ' in track.person
        read_track(write(tmp_path / 'again', keypoints, SIZE), NUMBERED[write], size=SIZE)


@each_writer
def test_no_two_readers_claim_a_file(tmp_path, write):
    name, _ = WRITERS[write]
    path = write(tmp_path / 'in', keypoints_of(LAYOUTS[name], 3), SIZE)
    path = next(iter(sorted(path.iterdir()))) if path.is_dir() else path
    if not registry.is_json(path):
        return
    content = registry.read_json(path)
    clips = [reader.__name__ for reader in registry.CLIPS if reader.clip(content, 'x') is not None]
    readings = [[reader.__name__ for reader in registry.PICTURES if reader.pictures(items[0][1], 'x') is not None]
                for items in registry._as_pictures(content)]
    assert len(clips) <= 1
    assert all(len(claims) <= 1 for claims in readings)
    assert clips or any(readings)


@pytest.mark.parametrize('write', SHARES, ids=lambda write: write.__name__)
def test_shares_of_the_picture_need_its_size(tmp_path, write):
    path = write(tmp_path / 'in', keypoints_of(LAYOUTS[WRITERS[write][0]]), SIZE)
    with pytest.raises(FlagError, match=r"shares of the picture's width and height .* add --image-size WIDTH HEIGHT"):
        read_track(path)


@pytest.mark.parametrize('mark', [(0, 0), (-1, -1), (np.nan, np.nan), (None, None)], ids=str)
@pytest.mark.parametrize('columns', [2, 3])
def test_marks_of_missing_points_are_no_points(tmp_path, mark, columns):
    keypoints = keypoints_of(COCO)[..., :columns]
    if mark[0] is None:
        content = [{'image_id': t, 'category_id': 1, 'keypoints': frame.ravel().tolist()}
                   for t, frame in enumerate(with_third(keypoints))]
        content[3]['keypoints'][15:17] = [None, None]
        path = files.save_json(tmp_path / 'in.json', content)
    else:
        keypoints[3, 5, :2] = mark
        path = tmp_path / 'in.npy'
        np.save(path, keypoints)
    track = read_track(path)
    gone = np.zeros((T, 17), bool)
    gone[3, 5] = True
    assert (np.isnan(track.points).any(axis=-1) == gone).all()
    assert ((track.scores == 0) == gone).all()


def with_third(keypoints):
    return keypoints if keypoints.shape[-1] == 3 else files.with_scores(keypoints, 1.0)


@pytest.mark.parametrize('scale, expected', [(1, 1), (100, 1), (0, None)])
def test_scores_of_other_scales(tmp_path, scale, expected):
    """From 0 to 100; all 0 where there are none; (-1, -1, -1) where a point is missing."""
    keypoints = keypoints_of(COCO)
    given = keypoints * [1, 1, scale]
    given[2, 4] = -1
    np.save(tmp_path / 'in.npy', given)
    track = read_track(tmp_path / 'in.npy')
    right = keypoints[..., 2].copy() if expected else np.ones((T, 17))
    right[2, 4] = 0
    np.testing.assert_allclose(track.scores, right)


def test_a_third_coordinate_is_no_score(tmp_path):
    poses, pixels = clip(T)
    np.save(tmp_path / 'in.npy', np.concatenate([pixels, 1000 * poses[..., 2:]], axis=-1))
    with pytest.raises(FileError, match=r'third number of its keypoints lies from .* give x and y alone'):
        read_track(tmp_path / 'in.npy')


def test_min_score_0_takes_what_a_detector_scores_0(tmp_path):
    keypoints = keypoints_of(COCO)
    keypoints[4, 6, 2] = 0
    np.save(tmp_path / 'in.npy', keypoints)
    track = read_track(tmp_path / 'in.npy')
    assert 0 < track.scores[4, 6] < 1e-6
    np.testing.assert_allclose(track.points, keypoints[..., :2])


@pytest.mark.parametrize('labels, videos', [
    (['0.jpg', '1.jpg'], {'': [0, 1]}), (['cam1_01.jpg', 'cam1_02.jpg'], {'cam1': [1, 2]}),
    (['cam1_01.jpg', 'cam1_02.jpg', 'cam2_01.jpg', 'cam2_02.jpg', 'cam2_03.jpg'], {'cam1': [1, 2], 'cam2': [1, 2, 3]}),
    (['000001_cam2', '000002_cam2', '000003_cam2'], {'cam2': [1, 2, 3]}),
    (['a/0001.png', 'a/0002.png', 'b/0001.png'], {'a': [1, 2], 'b': [1]}),
    (['t33ms_1', 't66ms_2', 't99ms_3'], {'': [1, 2, 3]}), (['left.jpg', 'right.jpg'], {'': [None, None]}),
    ([3, 5, 7], {'': [3, 5, 7]}), ([None, None], {'': [None, None]}),
    ([('a.mp4', 0), ('b.mp4', 0), ('b.mp4', 1)], {'a.mp4': [0], 'b.mp4': [0, 1]}),
], ids=str)
def test_names_of_frames_tell_frames_and_videos(labels, videos):
    assert {name: [number for _, number in frames] for name, frames in videos_of(labels).items()} == videos


def test_one_of_several_videos_is_named_or_refused(tmp_path):
    keypoints = keypoints_of(COCO)
    entries = [{'image_id': f'{cam}_{t + 1:06d}.jpg', 'category_id': 1, 'keypoints': (frame + shift).ravel().tolist()}
               for cam, shift in (('cam1', 0), ('cam2', [9, 9, 0])) for t, frame in enumerate(keypoints)]
    path = files.save_json(tmp_path / 'in.json', sorted(entries, key=lambda entry: entry['image_id'][5:]))
    with pytest.raises(FlagError, match='holds 2 videos: name one with -ste: cam1, cam2'):
        read_track(path)
    with pytest.raises(FlagError, match=r'-ste cam3: .* has no such video; there are cam1, cam2'):
        read_track(path, video='cam3')
    track = read_track(path, video='cam2')
    np.testing.assert_allclose(track.points, keypoints[..., :2] + 9)
    assert track.frames.tolist() == list(range(1, T + 1))


def test_frames_of_one_camera_need_no_name(tmp_path):
    keypoints = keypoints_of(LAYOUTS['body25'])
    path = files.folder_of(tmp_path / 'in', keypoints, lambda t, frame: {'people': [files.openpose_person(frame)]},
                           '{:06d}_cam2_keypoints.json')
    assert read_track(path).frames.tolist() == list(range(T))
    assert read_track(path, video='cam2').frames.tolist() == list(range(T))


def test_merged_boxes_keep_the_number_of_the_person(tmp_path):
    keypoints = keypoints_of(COCO)
    entries = [{'image_id': f'{t}.jpg', 'keypoints': frame.ravel().tolist(), 'score': 2.5,
                'idx': [1.0, 3.0] if t == 5 else [1.0]} for t, frame in enumerate(keypoints)]
    assert f'number 1 by the file\'s own count, in {T} of {T} frames' in \
        read_track(files.save_json(tmp_path / 'in.json', entries)).person


@pytest.mark.parametrize('name', ['RESULT.JSON', 'a.json.gz', 'a.jsonl'])
def test_json_by_other_names(tmp_path, name):
    keypoints = keypoints_of(COCO)
    entries = [{'image_id': f'{t}.jpg', 'keypoints': frame.ravel().tolist(), 'score': 1.0}
               for t, frame in enumerate(keypoints)]
    text = '\n'.join(map(json.dumps, entries)) if name.endswith('l') else json.dumps(entries)
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith('.gz') else text.encode())
    np.testing.assert_allclose(read_track(tmp_path / name).points, keypoints[..., :2])


def test_a_file_of_names_is_a_layout(tmp_path):
    order = ['RAnkle', 'r_knee', 'right hip', '-', 'L_Hip', 'left knee', 'left-ankle', 'Pelvis', 'head_top', 'rwrist',
             'r_elbow', 'right_shoulder  # a remark', 'left_shoulder', 'LElbow', 'left_wrist', 'spine']
    (tmp_path / 'names.txt').write_text('\n'.join(order) + '\n')
    layout = read_names(tmp_path / 'names.txt')
    assert layout.joints[:5] == ('right_ankle', 'right_knee', 'right_hip', 'extra_3', 'left_hip')
    assert layout.joints[8:10] == ('head', 'right_wrist')
    points = keypoints_of(layout)[..., :2]
    found, how = find_layout(points, str(tmp_path / 'names.txt'), (), 'x')
    assert (found, how) == (layout, 'as --layout says')
    with pytest.raises(FileError, match=r'has 15 keypoints, but --layout .* has 16'):
        find_layout(points[:, :15], str(tmp_path / 'names.txt'), (), 'x')


@pytest.mark.parametrize('change, message', [
    (lambda lines: [*lines[:3], 'elbo', *lines[4:]], 'line 4, elbo, is no name of a joint; write -'),
    (lambda lines: [*lines, 'nose'], 'line 18, nose, is there twice'),
    (lambda lines: [line for line in lines if line != 'left_knee'], 'names no left_knee, which a lifter needs'),
    (lambda lines: ['x' * 100000], r'is no name of a joint'), (lambda lines: ['\x1b[31m\u2028'], r'line 1, \?\[31m'),
])
def test_files_of_names_that_are_none_are_refused(tmp_path, change, message):
    (tmp_path / 'names.txt').write_text('\n'.join(change(list(COCO.joints))))
    with pytest.raises(FlagError, match=message) as caught:
        read_names(tmp_path / 'names.txt')
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()


def test_a_layout_that_the_file_says_is_taken(tmp_path):
    """PoseTrack's 17, of which two are not COCO's, and keypoints that the file names."""
    layout = LAYOUTS['posetrack18']
    keypoints = keypoints_of(layout)
    people = files.mmpose_frames(keypoints[..., :2])
    for about in ({'dataset_name': 'posetrack18'}, {'dataset_name': 'mine', 'keypoint_id2name': {
            str(n): {'thorax': 'head_bottom', 'head': 'head_top'}.get(name, name)
            for n, name in enumerate(layout.joints)}}):
        track = read_track(files.save_json(tmp_path / 'in.json', {'meta_info': about, 'instance_info': people}))
        assert find_layout(track.points, 'auto', track.layouts, 'x') == (
            layout, 'as the file says (--layout says otherwise)')


def test_layouts_that_bones_do_not_tell_apart_are_named_in_the_refusal():
    """Without faces, COCO and PoseTrack differ in nothing that is seen; with one eye, that eye may be a neck."""
    points = keypoints_of(COCO)[..., :2]
    points[:, 1:5] = np.nan
    assert find_layout(points, 'auto', (), 'x')[0].name == 'coco'
    points[:, 0] = np.nan
    points[:, 1] = points[:, 5:7].mean(axis=1)
    with pytest.raises(FileError, match='bones fit layouts coco and posetrack18: say which with --layout'):
        find_layout(points, 'auto', (), 'x')
    assert find_layout(points, 'auto', ('posetrack18',), 'x')[0].name == 'posetrack18'
    assert find_layout(points, 'coco', (), 'x')[0].name == 'coco'


def test_the_advice_of_a_refusal_is_true():
    for name in ('coco25', 'kinect25', 'body25', 'h36m16', 'canonpose16', 'mpii'):
        points = keypoints_of(LAYOUTS[name])[..., :2]
        for other in LAYOUTS.values():
            if len(other) != len(points[0]):
                with pytest.raises(FileError, match=f'its bones fit {name}$'):
                    find_layout(points, other.name, (), 'x')
        assert evenness(points, LAYOUTS[name]) > 0.55


@pytest.mark.parametrize('word, joint', [
    ('LShoulder', 'left_shoulder'), ('r_ank', 'right_ankle'), ('Mid-Hip', 'hip'), ('left big toe', 'left_big_toe'),
    ('elbow_l', 'left_elbow'), ('head_bottom', 'thorax'), ('upper_neck', 'neck'), ('tail', None), ('', None)])
def test_spellings_of_joints(word, joint):
    assert joint_name(word) == joint


@pytest.mark.parametrize('name, head, message', [
    ('dlc.csv', 'scorer,DLC,DLC\nbodyparts,nose,nose\ncoords,x,y\n', "DeepLabCut's table: save its keypoints as npy"),
    ('s.csv', 'track,frame_idx,instance.score,nose.x\n', "SLEAP's table: save its keypoints as npy"),
    ('sleap.h5', '', 'DeepLabCut and SLEAP write it'), ('k.pkl', '', 'can run programs when it is opened'),
    ('clip.mp4', '', 'whose keypoints --predict looks for'), ('a.jpg', '', 'a picture'),
    ('walk.bvh', '', 'motion in 3D'), ('walk.glb', '', 'motion in 3D')])
def test_files_of_other_kinds_say_what_to_do(tmp_path, name, head, message):
    (tmp_path / name).write_text(head)
    with pytest.raises(FileError, match=message):
        read_track(tmp_path / name)


@pytest.mark.parametrize('content', [
    [[]] * 1_000_000, [0] * 1_000_000, [{'image_id': 0}] * 1_000_000, {str(n): [] for n in range(300_000)},
    [{'image_id': '0.jpg', 'keypoints': [1.0] * 1_000_000}],
    [{'image_id': 19 * t or 1, 'keypoints': [1, 2, 3]} for t in range(60_000)],
    [{'people': [{'pose_keypoints_2d': [[[[1]]]]}]}], {'annotations': [{'x' * 10 ** 6: '\x1b[31m\n'}] * 10},
    [{'image_id': '0.jpg', 'keypoints': ['\n' * 10 ** 6]}],
], ids=lambda content: str(content)[:30])
def test_absurd_json_ends_with_one_sentence_in_bounded_time(tmp_path, content):
    path = files.save_json(tmp_path / 'in.json', content)
    begun = time.perf_counter()
    with pytest.raises((FileError, FlagError)) as caught:
        read_track(path)
    assert time.perf_counter() - begun < 20
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable(), str(caught.value)[:1000]


@pytest.mark.parametrize('images', [{'id': 1}, [{'id': 1}, 'b.jpg'], [{'file_name': 'a.jpg'}], [{'id': True}]])
def test_images_that_annotations_cannot_name_are_refused(tmp_path, images):
    path = files.save_json(tmp_path / 'in.json', {'images': images, 'annotations': []})
    with pytest.raises(FileError, match='images is not a list of dicts with an id each'):
        read_track(path)


@pytest.mark.parametrize('text', [b'[' * 10 ** 6, b'{"a":' * 10 ** 5, b'[1', b'\xff\xfe', b'nan nan', b'1' * 5000])
def test_what_is_no_json_ends_with_one_sentence(tmp_path, text):
    (tmp_path / 'in.json').write_bytes(text)
    with pytest.raises(FileError) as caught:
        read_track(tmp_path / 'in.json')
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_other_pickles_in_an_array_are_never_opened(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / 'made'), 'w')
    np.save(tmp_path / 'in.npy', np.array([Evil(), None], dtype=object), allow_pickle=True)
    with pytest.raises(FileError, match='nothing in it was executed'):
        read_track(tmp_path / 'in.npy')
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('name', ['in.json', 'in.npy', 'in.npz', 'in.csv', 'in.json.gz'])
def test_pipes_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileError, match='neither a file nor a folder'):
        read_track(tmp_path / name)


def test_names_of_files_in_a_folder_stay_on_one_line(tmp_path):
    keypoints = keypoints_of(COCO)
    path = files.folder_of(tmp_path / 'in', keypoints, lambda t, frame: {'people': [files.openpose_person(frame)]})
    (path / 'x\nerror: forged\x1b[31m.json').write_text('{"people": 3')
    with pytest.raises(FileError, match='not readable JSON') as caught:
        read_track(path)
    assert str(caught.value).isprintable()


def test_json_that_would_fill_the_memory_is_refused(tmp_path):
    (tmp_path / 'in.json.gz').write_bytes(gzip.compress(b'[' + b'[],' * 20_000_000 + b'[]]', 1))
    begun = time.perf_counter()
    with pytest.raises(FileError, match='holds more values than fit'):
        read_track(tmp_path / 'in.json.gz')
    assert time.perf_counter() - begun < 20


ODD = (None, True, -1, 1e308, 10 ** 400, 'x\n\x1b', [], {}, [[]], [None], {'x': 1}, 'nan', [1, 2], -5, 'é' * 300, [{}],
       0.5)


def altered(content, random):
    """Return JSON with one value replaced, removed or doubled."""
    whole = json.loads(json.dumps(content))
    node, depth = whole, random.integers(1, 8)
    for _ in range(depth):
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        if not len(keys):
            break
        parent, key = node, keys[random.integers(len(keys))]
        node = parent[key]
        if not isinstance(node, (dict, list)) or not node:
            break
    what = random.integers(4)
    if what == 0:
        del parent[key]
    elif what == 1 and isinstance(parent, list):
        parent.append(parent[key])
    else:
        parent[key] = ODD[random.integers(len(ODD))]
    return whole


@each_writer
def test_odd_values_anywhere_end_with_one_sentence_or_a_track(tmp_path, write):
    path = write(tmp_path / 'in', keypoints_of(LAYOUTS[WRITERS[write][0]], 3), SIZE)
    path = next(iter(sorted(path.iterdir()))) if path.is_dir() else path
    if not registry.is_json(path):
        return
    content, random = registry.read_json(path), np.random.default_rng(0)
    for _ in range(60):
        files.save_json(tmp_path / 'odd.json', altered(content, random))
        try:
            track = read_track(tmp_path / 'odd.json', size=SIZE)
        except (FileError, FlagError) as error:
            assert str(error).isprintable() and len(str(error)) < 700, str(error)[:900]  # noqa: PT017
        else:
            assert len(track.points) == len(track.scores) == len(track.frames)


def test_a_neck_alone_is_the_base_of_the_neck(tmp_path):
    """As in LSP's order, and in a file that names its keypoints itself."""
    order = ['r_ankle', 'r_knee', 'r_hip', 'l_hip', 'l_knee', 'l_ankle', 'r_wrist', 'r_elbow', 'r_shoulder',
             'l_shoulder', 'l_elbow', 'l_wrist', 'neck', 'head_top']
    (tmp_path / 'lsp.txt').write_text('\n'.join(order))
    assert read_names(tmp_path / 'lsp.txt').joints == layout_of_names('x', order).joints
    assert 'thorax' in read_names(tmp_path / 'lsp.txt').joints
    (tmp_path / 'both.txt').write_text('\n'.join([*order, 'thorax']))
    assert {'neck', 'thorax'} <= set(read_names(tmp_path / 'both.txt').joints)
