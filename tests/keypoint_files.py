"""Writers of detectors' files, for tests of --predict: each takes pixels (T, K, 2) and a path."""

import json
from pathlib import Path

import numpy as np

from common.skeleton import COCO, H36M, correspondence
from common.storage.npz import write_npz

# Halpe and BODY_25B have more than a motion-capture skeleton: what lies beside a joint stands in for it.
NEAR = {'nose': 'neck', 'left_eye': 'head', 'right_eye': 'head', 'left_ear': 'head', 'right_ear': 'head'}
NEAR |= {f'{side}_{part}': f'{side}_{joint}' for side in ('left', 'right') for joint, parts in (
    ('ankle', ('big_toe', 'small_toe', 'heel', 'foot')), ('wrist', ('hand', 'hand_tip', 'thumb'))) for part in parts}


def in_layout(pixels, layout):
    """Convert pixels (T, 17, 2) of Human3.6M's joints to another layout; others lie at the hip."""
    columns = []
    for name in layout.joints:
        name = next((other for other in (name, NEAR.get(name)) if other in H36M.joints), 'hip')
        columns.append(pixels[:, H36M.joints.index(name)])
    return np.stack(columns, axis=1)


def with_scores(pixels, score=0.9):
    return np.concatenate([pixels, np.full((*pixels.shape[:2], 1), score)], axis=-1)


def alphapose(path: Path, pixels, score=0.9, idx=1):
    path.write_text(json.dumps([
        {'image_id': f'{t}.jpg', 'category_id': 1, 'keypoints': frame.ravel().tolist(), 'score': 2.5, 'idx': idx}
        for t, frame in enumerate(with_scores(pixels, score))]))


def openpose(path: Path, pixels, number=-1):
    path.mkdir()
    for t, frame in enumerate(with_scores(pixels)):
        person = {'person_id': [number], 'pose_keypoints_2d': frame.ravel().tolist(), 'face_keypoints_2d': []}
        (path / f'clip_{t:012d}_keypoints.json').write_text(json.dumps({'version': 1.3, 'people': [person]}))


def mmpose_frames(pixels):
    return [{'frame_id': t + 1, 'instances': [{
        'keypoints': frame.tolist(), 'keypoint_scores': [0.9] * len(frame), 'bbox': [[0, 0, 9, 9]], 'bbox_score': 0.8}]}
        for t, frame in enumerate(pixels)]


def mmpose(path: Path, pixels):
    path.write_text(json.dumps({'meta_info': {'dataset_name': 'any'}, 'instance_info': mmpose_frames(pixels)}))


def mmpose_list(path: Path, pixels):
    path.write_text(json.dumps(mmpose_frames(pixels)))


def detectron(path: Path, pixels, size=(1000, 1002)):
    boxes, keypoints = np.empty((2, len(pixels), 2), dtype=object)
    for t, frame in enumerate(pixels):
        boxes[t] = [[], np.array([[0, 0, 9, 9, 0.5], [0, 0, 9, 9, 0.99]], np.float32)]
        rows = np.stack([frame[:, 0], frame[:, 1], 0 * frame[:, 0], 0 * frame[:, 0] + 0.1])  # (4, 17)
        other = np.array([[1], [1], [0], [0.1]]) + rows * [[1], [1], [1], [0]]
        keypoints[t] = [[], np.stack([other, rows]).astype(np.float32)]
    write_npz(path, boxes=boxes, segments=np.empty(len(pixels), object), keypoints=keypoints,
              metadata={'w': size[0], 'h': size[1]})


def custom(path: Path, pixels, size=(1000, 1002), layout='coco', symmetry=None):
    symmetry = symmetry or [[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]]
    write_npz(path, positions_2d={'clip.mp4': {'custom': [pixels.astype(np.float32)]}}, metadata={
        'layout_name': layout, 'num_joints': 17, 'keypoints_symmetry': symmetry,
        'video_metadata': {'clip.mp4': {'w': size[0], 'h': size[1]}}})


def npz(path: Path, pixels):
    np.savez(path, keypoints=with_scores(pixels), size=[1000, 1002], fps=50.0)


def npy(path: Path, pixels):
    np.save(path, pixels.astype(np.float32))


def to_3dhp(pixels):
    from common.skeleton import MPI_INF_3DHP
    return np.einsum('lk,tkc->tlc', correspondence(MPI_INF_3DHP, H36M), pixels)


# ---- detectors, each as its documentation shows it: (path, (T, K, 3) x, y, score, (width, height)) -> the path to read


def save_json(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def box_of(frame):
    return [*frame[:, :2].min(0), *frame[:, :2].max(0)]


def folder_of(path: Path, keypoints, content_of, name='clip_{:012d}_keypoints.json', first=0) -> Path:
    for t, frame in enumerate(keypoints):
        save_json(path / name.format(t + first), content_of(t, frame))
    return path


def openpose_person(frame, columns=3):
    return {'person_id': [-1], 'pose_keypoints_2d': frame[:, :columns].ravel().tolist(), 'face_keypoints_2d': []}


def alphapose_open(path: Path, keypoints, size) -> Path:
    return save_json(path / 'a.json', {f'{t}.jpg': {'version': 'AlphaPose v0.3', 'people': [openpose_person(frame)]}
                                       for t, frame in enumerate(keypoints)})


def alphapose_cmu(path: Path, keypoints, size) -> Path:
    return save_json(path / 'a.json', {f'{t}.jpg': {'bodies': [{'joints': frame.ravel().tolist()}]}
                                       for t, frame in enumerate(keypoints)})


def alphapose_separate(path: Path, keypoints, size) -> Path:
    return folder_of(path, keypoints, lambda t, frame: {'version': 'AlphaPose v0.3',
                                                        'people': [openpose_person(frame)]}, '{}.json')


def poseflow(path: Path, keypoints, size) -> Path:
    return save_json(path / 'a.json', {f'{t}.jpg': [{'keypoints': frame.ravel().tolist(), 'scores': 2.5, 'idx': 3}]
                                       for t, frame in enumerate(keypoints)})


def openpose_nulls(path: Path, keypoints, size) -> Path:
    return folder_of(path, keypoints, lambda t, frame: {'people': [openpose_person(frame), None]})


def tfpose(path: Path, keypoints, size) -> Path:
    return folder_of(path, keypoints, lambda t, frame: {'people': [openpose_person(frame, 2)]})


def controlnet(path: Path, keypoints, size) -> Path:
    return save_json(path / 'a.json', [
        {'people': [openpose_person(frame) | {'face_keypoints_2d': None}], 'canvas_height': size[1],
         'canvas_width': size[0]} for frame in keypoints])


def controlnet_shares(path: Path, keypoints, size) -> Path:
    return controlnet(path, keypoints / [*size, 1], size)


def mmpose_person(frame):
    return {'keypoints': frame[:, :2].tolist(), 'keypoint_scores': frame[:, 2].tolist(), 'bbox': [box_of(frame)],
            'bbox_score': 0.9}


def mmpose_pictures(path: Path, keypoints, size) -> Path:
    return folder_of(path, keypoints, lambda t, frame: [mmpose_person(frame)], '{:06d}.json')


def mmpose_generator(path: Path, keypoints, size) -> Path:
    return save_json(path / 'a.json', [{'visualization': [], 'predictions': [[mmpose_person(frame)]]}
                                       for frame in keypoints])


def mmpose_merged(path: Path, keypoints, size) -> Path:
    return save_json(path / 'a.json', {'predictions': [[mmpose_person(frame)] for frame in keypoints]})


def sapiens(path: Path, keypoints, size) -> Path:
    return folder_of(path, keypoints, lambda t, frame: {'instance_info': [mmpose_person(frame)]}, '{:05d}.json')


def huggingface(path: Path, keypoints, size) -> Path:
    return save_json(path / 'a.json', [[{'keypoints': frame[:, :2].tolist(), 'scores': frame[:, 2].tolist(),
                                         'labels': list(range(len(frame))), 'bbox': box_of(frame)}]
                                       for frame in keypoints])


def yolo_result(frame, **more):
    x0, y0, x1, y1 = box_of(frame)
    return {'name': 'person', 'class': 0, 'confidence': 0.91, 'box': {'x1': x0, 'y1': y0, 'x2': x1, 'y2': y1}, **more,
            'keypoints': {'x': frame[:, 0].tolist(), 'y': frame[:, 1].tolist(), 'visible': frame[:, 2].tolist()}}


def ultralytics_list(path: Path, keypoints, size) -> Path:
    return save_json(path / 'a.json', [[yolo_result(frame)] for frame in keypoints])


def ultralytics_folder(path: Path, keypoints, size) -> Path:
    return folder_of(path, keypoints, lambda t, frame: [yolo_result(frame, track_id=4)], 'clip_{}.json')


def ultralytics_labels(path: Path, keypoints, size, after='') -> Path:
    path.mkdir(parents=True)
    for t, frame in enumerate(keypoints / [*size, 1]):
        values = ' '.join(f'{value:.8g}' for value in frame.ravel())
        (path / f'clip_{t + 1}.txt').write_text(f'0 0.5 0.5 0.2 0.4 {values}{after}\n')
    return path


def ultralytics_labels_tracked(path: Path, keypoints, size) -> Path:
    return ultralytics_labels(path, keypoints, size, ' 0.87 4')


def ultralytics_xy(path: Path, keypoints, size) -> Path:
    path.mkdir(parents=True)
    np.save(path / 'a.npy', keypoints[:, None, :, :2].astype(np.float32))
    return path / 'a.npy'


def rtmlib(path: Path, keypoints, size) -> Path:
    path.mkdir(parents=True)
    np.savez(path / 'a.npz', keypoints=keypoints[:, None, :, :2], scores=keypoints[:, None, :, 2])
    return path / 'a.npz'


def rtmlib_ragged(path: Path, keypoints, size) -> Path:
    """A second person, seen less well, in some frames, and nobody there in none."""
    path.mkdir(parents=True)
    points, scores = np.empty((2, len(keypoints)), dtype=object)
    for t, frame in enumerate(keypoints):
        count = 2 if t % 7 == 3 else 1
        points[t] = np.stack([frame[:, :2], frame[:, :2] + [90, 0]])[:count]
        scores[t] = np.stack([frame[:, 2], frame[:, 2] * 0.6])[:count]
    np.savez(path / 'a.npz', keypoints=points, scores=scores)
    return path / 'a.npz'


def mmaction(path: Path, keypoints, size) -> Path:
    path.mkdir(parents=True)
    np.savez(path / 'a.npz', keypoint=keypoints[None, ..., :2], keypoint_score=keypoints[None, ..., 2])
    return path / 'a.npz'


def pifpaf_person(frame):
    return {'keypoints': frame.ravel().tolist(), 'bbox': box_of(frame), 'score': 0.8, 'category_id': 1}


def pifpaf_lines(path: Path, keypoints, size) -> Path:
    path.mkdir(parents=True)
    (path / 'a.json').write_text('\n'.join(json.dumps({'frame': t + 1, 'predictions': [pifpaf_person(frame)]})
                                           for t, frame in enumerate(keypoints)))
    return path / 'a.json'


def pifpaf_folder(path: Path, keypoints, size) -> Path:
    return folder_of(path, keypoints, lambda t, frame: [pifpaf_person(frame)], 'clip_{:05d}.jpg.predictions.json')


def stgcn(path: Path, keypoints, size) -> Path:
    return save_json(path / 'a.json', {'data': [
        {'frame_index': t + 1, 'skeleton': [{'pose': frame[:, :2].ravel().tolist(), 'score': frame[:, 2].tolist()}]}
        for t, frame in enumerate(keypoints)], 'label': '', 'label_index': -1})


def stgcn_shares(path: Path, keypoints, size) -> Path:
    return stgcn(path, keypoints / [*size, 1], size)


def vitpose(path: Path, keypoints, size) -> Path:
    from common.keypoints.known import COCO25
    names = {'thorax': 'neck', 'left_big_toe': 'left_big toe'}
    return save_json(path / 'a.json', {
        'keypoints': [{'0': frame[:, [1, 0, 2]].tolist()} for frame in keypoints],
        'skeleton': {str(n): names.get(name, name) for n, name in enumerate(COCO25.joints)}})


def mediapipe_array(path: Path, keypoints, size) -> Path:
    path.mkdir(parents=True)
    shares = keypoints / [*size, 1]
    np.save(path / 'a.npy', np.concatenate([shares[..., :2], -0.3 + 0 * shares[..., :1], shares[..., 2:]], axis=-1))
    return path / 'a.npy'


def mediapipe_json(path: Path, keypoints, size) -> Path:
    return save_json(path / 'a.json', [{'frame': t, 'landmarks': [
        {'x': x, 'y': y, 'z': 0.1, 'visibility': score} for x, y, score in frame]}
        for t, frame in enumerate((keypoints / [*size, 1]).tolist())])


def movenet(path: Path, keypoints, size) -> Path:
    path.mkdir(parents=True)
    np.save(path / 'a.npy', (keypoints / [*size, 1])[:, None, None][..., [1, 0, 2]])
    return path / 'a.npy'


def movenet_multipose(path: Path, keypoints, size) -> Path:
    path.mkdir(parents=True)
    rows = np.zeros((len(keypoints), 1, 6, 56))
    rows[:, 0, 0, :51] = (keypoints / [*size, 1])[..., [1, 0, 2]].reshape(len(keypoints), -1)
    rows[:, 0, 0, 55] = 0.7
    np.save(path / 'a.npy', rows)
    return path / 'a.npy'


def tensorflow_js(path: Path, keypoints, size) -> Path:
    return save_json(path / 'a.json', [[{'score': 0.8, 'keypoints': [
        {'x': x, 'y': y, 'score': score, 'name': 'any'} for x, y, score in frame]}] for frame in keypoints.tolist()])


def coco_annotations(path: Path, keypoints, size) -> Path:
    flags = np.concatenate([keypoints[..., :2], np.full((*keypoints.shape[:2], 1), 2)], axis=-1)
    names = [f'frame_{t:06d}.png' for t in range(len(keypoints))]
    return save_json(path / 'a.json', {
        'images': [{'id': t + 1, 'file_name': name, 'width': size[0], 'height': size[1]}
                   for t, name in enumerate(names)],
        'categories': [{'id': 1, 'name': 'person', 'keypoints': list(COCO.joints), 'skeleton': []}],
        'annotations': [{'id': t, 'image_id': t + 1, 'category_id': 1, 'keypoints': frame.ravel().tolist(),
                         'iscrowd': 0, 'bbox': [0, 0, 1, 1], 'track_id': 5} for t, frame in enumerate(flags)]})


def coco_unlabelled(path: Path, keypoints, size) -> Path:
    """Visibility 0 everywhere, as MotionBERT's users had it."""
    flags = np.concatenate([keypoints[..., :2], np.zeros((*keypoints.shape[:2], 1))], axis=-1)
    return save_json(path / 'a.json', {'annotations': [{'frame_id': t, 'keypoints': frame.ravel().tolist()}
                                                       for t, frame in enumerate(flags)]})


def coco_results(path: Path, keypoints, size) -> Path:
    return save_json(path / 'a.json', {'data': [
        {'image_id': t, 'category_id': 1, 'keypoints': frame.ravel().tolist(), 'score': 0.5}
        for t, frame in enumerate(keypoints)]})
