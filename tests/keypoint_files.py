"""Writers of detectors' files, for tests of --predict: each takes pixels (T, K, 2) and a path."""

import json
from pathlib import Path

import numpy as np

from common.skeleton import H36M, correspondence
from common.storage.npz import write_npz

# Halpe and BODY_25B have more than a motion-capture skeleton: what lies beside a joint stands in for it.
NEAR = {'nose': 'neck', 'left_eye': 'head', 'right_eye': 'head', 'left_ear': 'head', 'right_ear': 'head'}
NEAR |= {f'{side}_{part}': f'{side}_ankle' for side in ('left', 'right') for part in ('big_toe', 'small_toe', 'heel')}


def in_layout(pixels, layout):
    """Convert pixels (T, 17, 2) of Human3.6M's joints to the keypoints of another layout."""
    columns = []
    for name in layout.joints:
        name = NEAR.get(name, name) if name not in H36M.joints else name
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


def custom(path: Path, pixels, size=(1000, 1002), layout='coco'):
    symmetry = [[1, 3, 5, 7, 9, 11, 13, 15], [2, 4, 6, 8, 10, 12, 14, 16]]
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
