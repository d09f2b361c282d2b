"""Frame numbers and videos from the names of frames: `cam2_000017.jpg` is frame 17 of video `cam2`.

Among the numbers in a name, the frame's is the one that changes most. Names are of different videos where their other
parts differ and frame numbers occur twice.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

SUFFIXES = re.compile(r'(_keypoints)?(\.(jpe?g|png|bmp|tiff?|webp|jsonl?|gz|txt|predictions))*$', re.IGNORECASE)
SEPARATORS = ' _-./\\:'

Frame = tuple[int, int | None]  # place in the list of labels, number
Label = str | int | tuple[str, int] | None  # a name, a number, or a video's name and a number


def without_suffix(name: str) -> str:
    """Return a file's name without what says that it holds keypoints or a picture."""
    return SUFFIXES.sub('', name)


def videos_of(labels: Sequence[Label]) -> dict[str, list[Frame]]:
    """Return the frames of each video by its name, which is empty for frames that carry numbers alone.

    Numbers are None where names have none. Frames keep the order of the labels.
    """
    if all(label is None or isinstance(label, int) for label in labels):
        return {'': [(index, label if isinstance(label, int) else None) for index, label in enumerate(labels)]}
    videos: dict[str, list[Frame]] = {}
    if all(isinstance(label, tuple) for label in labels):
        for index, label in enumerate(labels):
            if isinstance(label, tuple):
                videos.setdefault(label[0], []).append((index, label[1]))
        return videos
    groups: dict[str, list[int]] = defaultdict(list)
    texts = ['' if label is None else without_suffix(str(label)) for label in labels]
    for index, text in enumerate(texts):
        groups[re.sub(r'\d+', '#', text)].append(index)
    for indices in groups.values():
        for name, frames in _split(indices, [texts[index] for index in indices]).items():
            videos.setdefault(name, []).extend(frames)
    return videos if _are_different(videos) else _as_one(videos, texts)


def _split(indices: list[int], texts: list[str]) -> dict[str, list[Frame]]:
    """Return the videos among names that differ only in numbers."""
    rows = [[int(digits[-18:]) for digits in re.findall(r'\d+', text)] for text in texts]
    if not rows[0]:
        return {text.strip(SEPARATORS): [(index, None)] for index, text in zip(indices, texts, strict=True)}
    kinds = [len(set(column)) for column in zip(*rows, strict=True)]
    frame = max(range(len(kinds)), key=lambda place: (kinds[place], place))
    videos: dict[str, list[Frame]] = defaultdict(list)
    names = [_without(text, frame) for text in texts]
    if kinds[frame] == len(rows) and len(set(names)) > 1:  # such as a time beside each number: still one video
        names = [''] * len(names)
    for index, name, row in zip(indices, names, rows, strict=True):
        videos[name].append((index, row[frame]))
    return videos


def _without(text: str, place: int) -> str:
    """Return a name without its number at a place."""
    match = list(re.finditer(r'\d+', text))[place]
    before, after = text[:match.start()].strip(SEPARATORS), text[match.end():].strip(SEPARATORS)
    return '_'.join(part for part in (before, after) if part)


def _are_different(videos: dict[str, list[Frame]]) -> bool:
    """Tell videos of several frames from the single pictures of one."""
    numbers = [number for frames in videos.values() for _, number in frames]
    return len(videos) > 1 and None not in numbers and (
        len(set(numbers)) < len(numbers) or all(len(frames) > 1 for frames in videos.values()))


def _as_one(videos: dict[str, list[Frame]], texts: list[str]) -> dict[str, list[Frame]]:
    name = next(iter(videos), '') if len(videos) == 1 else ''
    frames = sorted(frame for part in videos.values() for frame in part)
    if any(number is None for _, number in frames):  # such as a.jpg, b.jpg: in the order of the file
        frames = [(index, None) for index, _ in frames]
    return {name: frames}
