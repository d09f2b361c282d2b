"""A second, deliberately naive implementation of the test of poses in the picture, from the content of its file.

It works in pixels and millimetres, frame by frame, as the published programs do, and shares no code with ours.
Letters: F frames of a window.
"""

import numpy as np
import torch

LEFT, RIGHT = [4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]
TALL = ('54138969', '60457274')  # cameras whose pictures have 1002 rows


def mirrored(points):
    """Swap left and right of (F, 17, C) and turn x round."""
    points = points.copy()
    points[:, LEFT + RIGHT] = points[:, RIGHT + LEFT]
    points[..., 0] *= -1
    return points


def on_screen(pixels, height):
    """Return (F, 17, 2 or 3) pixels as the network has them."""
    out = pixels.astype(np.float64).copy()
    out[..., 0] = 2 * pixels[..., 0] / 1000 - 1
    out[..., 1] = 2 * pixels[..., 1] / 1000 - height / 1000
    if out.shape[2] == 3:
        out[..., 2] = 2 * pixels[..., 2] / 1000
    return out


def off_screen(poses, height):
    """Return (F, 17, 3) of the network as pixels."""
    out = poses.copy()
    out[..., 0] = (poses[..., 0] + 1) * 1000 / 2
    out[..., 1] = (poses[..., 1] + height / 1000) * 1000 / 2
    out[..., 2] = poses[..., 2] * 1000 / 2
    return out


def clips(side, frames):
    """Yield the frames that each window reads, and those of them that count, by their place in it.

    Back to back in each run of a source, the rest dropped; a run that is too short lies in the middle of its window.
    """
    begin = 0
    keys = list(zip(side['source'], map(str, side['camera_name']), strict=True))
    for end in range(1, len(keys) + 1):
        if end < len(keys) and keys[end] == keys[begin]:
            continue
        run = list(range(begin, end))
        if len(run) < frames:
            left = (frames - len(run) + 1) // 2
            window = [begin] * left + run + [end - 1] * frames
            yield window[:frames], range(left, left + len(run))
        else:
            for start in range(0, len(run) - frames + 1, frames):
                yield run[start:start + frames], range(frames)
        begin = end


def errors(model, side, frames):
    """Return action -> errors in mm of the frames that count, and the same after a similarity transform."""
    plain, aligned = {}, {}
    for rows, real in clips(side, frames):
        height = 1002 if str(side['camera_name'][rows[0]]) in TALL else 1000
        keypoints = on_screen(side['joint_2d'][rows], height)
        if side['source'][rows[0]][:21] in ('s_09_act_05_subact_02', 's_09_act_10_subact_02', 's_09_act_13_subact_01'):
            continue
        with torch.no_grad():
            both = [model(torch.from_numpy(x.astype(np.float32))[None])[0].numpy().astype(np.float64)
                    for x in (keypoints, mirrored(keypoints))]
        predicted = (both[0] + mirrored(both[1])) / 2
        predicted[:, 0] = 0
        predicted = off_screen(predicted, height)
        for index in real:
            row = rows[index]
            mine = predicted[index] * side['2.5d_factor'][row]
            true = side['joints_2.5d_image'][row].astype(np.float64)
            mine, true = mine - mine[0], true - true[0]
            error = np.sqrt(((mine - true) ** 2).sum(1)).mean()
            if error > 0:
                plain.setdefault(side['action'][row], []).append(error)
                aligned.setdefault(side['action'][row], []).append(
                    np.sqrt(((align(mine, true) - true) ** 2).sum(1)).mean())
    return plain, aligned


def align(mine, true):
    """Return mine (17, 3) moved, turned and scaled onto true."""
    a, b = mine - mine.mean(0), true - true.mean(0)
    u, s, vt = np.linalg.svd(a.T @ b)
    flip = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    return (s * flip).sum() / (a ** 2).sum() * a @ (u * flip) @ vt + true.mean(0)


def table(model, side, frames):
    """Return {action: (MPJPE, P-MPJPE)} with the plain mean over actions as `average`, mm."""
    plain, aligned = errors(model, side, frames)
    rows = {action: (np.mean(plain[action]), np.mean(aligned[action])) for action in plain}
    return rows | {'average': tuple(np.mean(list(rows.values()), axis=0))}
