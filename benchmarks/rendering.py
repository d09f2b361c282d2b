"""The time to draw and write a film of --render, and its memory, by length.

    python benchmarks/rendering.py --frames 300

The panels are those of the program at its default size: 2D input, a prediction and the truth. Prints JSON: seconds and
peak memory of each format and length, each measured in its own process; with --video also over the frames of a video
that is decoded meanwhile.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.datasets import load_dataset
from common.drawing.pictures import render_motion
from common.drawing.video import read_video, write_film


def film(suffix: str, frames: int, clip: Path | None, folder: Path) -> dict:
    """Draw one film; return seconds, bytes and the peak memory of this process."""
    dataset = load_dataset('synthetic', Path())
    camera, repeats = dataset.cameras['S5'][0], -(-frames // 220)
    truth, keypoints = (np.concatenate([track, track[::-1]] * repeats)[:frames] for track in (
        dataset.positions['S5']['Waving'], dataset.detections['S5']['Waving'][0]))
    predicted = truth + np.random.default_rng(0).normal(0, 0.02, truth.shape).astype(np.float32)
    begun = time.perf_counter()

    def draw(video):
        return render_motion(folder / f'film.{suffix}', dataset.skeleton, {'prediction': predicted}, 50, truth=truth,
                             keypoints=keypoints, layout=dataset.layout, picture_size=(camera.width, camera.height),
                             video=video, title='a film')
    if clip is None:
        drawn = draw(None)
    else:
        with read_video(clip, 1000) as source:
            drawn = draw(source.frames)
    return {'format': suffix, 'frames': drawn, 'video': clip is not None,
            'seconds': round(time.perf_counter() - begun, 1), 'bytes': (folder / f'film.{suffix}').stat().st_size,
            'peak_MB': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def main() -> None:
    """Run all measurements and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--frames', type=int, nargs='+', default=[300], metavar='N', help='lengths (default 300)')
    parser.add_argument('--video', action='store_true', help='also over a video of 1280x720')
    args = parser.parse_args()
    pool = multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1)
    with tempfile.TemporaryDirectory() as name, pool:
        folder = Path(name)
        clips = [None]
        if args.video:
            clips.append(folder / 'clip.mp4')
            row, column = np.mgrid[:720, :1280] // 6
            scene = np.stack([row * 2, column, row + column // 2], axis=-1).astype(np.uint8)
            write_film(clips[1], (np.roll(scene, 9 * k, 1) for k in range(max(args.frames))), 50)
        tasks = [(suffix, frames, clip, folder) for clip in clips for suffix in ('gif', 'mp4', 'png')
                 for frames in args.frames]
        print(json.dumps([pool.apply(film, task) for task in tasks], indent=1))


if __name__ == '__main__':
    main()
