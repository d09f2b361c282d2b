"""COCO's annotation files, as CVAT, Label Studio and labelme2coco export them, and PoseTrack's.

https://cocodataset.org/#format-data: {"images": [{"id", "file_name", "width", "height"}], "annotations": [{"image_id",
"keypoints": [x, y, visibility, …], "track_id"}], "categories": [{"keypoints": names}]}. A visibility of 0 says that the
point is not labelled; files in which all are 0 say nothing by it. Files with annotations alone, which name their
image_id or frame_id, are read too.
"""

from typing import Any

from common.errors import FileError
from common.keypoints.detections import Detections, Picture
from common.keypoints.known import layout_of_names
from common.keypoints.reading import dicts_with, first_of, flat_keypoints, person_of
from common.keypoints.sizes import size_of
from common.keypoints.track import Person
from common.keypoints.values import quoted
from common.skeleton import Skeleton

KIND = 'COCO annotations'
LAYOUTS = ('coco', 'posetrack18', 'halpe26')


def clip(content: Any, where: str) -> Detections | None:
    """Return the people of all images; None for what has no annotations of keypoints."""
    if not isinstance(content, dict) or not isinstance(content.get('annotations'), list):
        return None
    images = content.get('images')
    if images is not None and not (isinstance(images, list) and all(map(_is_image, images))):
        raise FileError(f'{where}: images is not a list of dicts with an id each')
    about = {image['id']: image for image in images or ()}
    frames: dict = {name: [] for name in about}
    for index, entry in enumerate(content['annotations']):
        here = f'{where}: annotation {index}'
        if not isinstance(entry, dict):
            raise FileError(f'{here} is {type(entry).__name__}, expected a dict')
        if entry.get('keypoints') in (None, []):  # a box or an outline alone
            continue
        image = first_of(entry, 'image_id', 'frame_id')
        if not _is_name(image) or (images and image not in frames):
            raise FileError(f'{here} is of image {quoted(image)}, which is not in the file')
        frames.setdefault(image, []).append(_person(entry, here))
    pictures = [_picture(image, about.get(image), people, where) for image, people in frames.items()]
    return Detections(pictures, KIND, (*_said(content.get('categories')), *LAYOUTS))


def _is_image(value: Any) -> bool:
    return isinstance(value, dict) and _is_name(value.get('id'))


def _is_name(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _picture(name: Any, about: dict | None, people: list[Person], where: str) -> Picture:
    if about is None:
        return Picture(people, name)
    label, size = about.get('file_name'), None
    if about.get('width') is not None and about.get('height') is not None:
        size = size_of(where, (about['width'], about['height']))
    return Picture(people, label if isinstance(label, str) and label else name, size)


def _person(entry: dict, where: str) -> Person:
    keypoints = flat_keypoints(entry['keypoints'], f'{where}: keypoints')
    return person_of(keypoints, first_of(entry, 'score'), entry.get('track_id'), where)


def _said(categories: Any) -> tuple[str | Skeleton, ...]:
    """Return the layout of the keypoints' names in the first category that has some."""
    for category in categories if dicts_with(categories) else ():
        names = category.get('keypoints') if isinstance(category, dict) else None
        if isinstance(names, list) and 0 < len(names) < 1000:
            layout = layout_of_names('of its names', [str(name)[:100] for name in names])
            return () if layout is None else (layout,)
    return ()
