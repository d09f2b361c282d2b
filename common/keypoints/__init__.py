"""A user's own 2D keypoints: from a detector's files to one person's track in the layout that a lifter reads.

`registry` finds the reader of a file, one module per detector; `detections` makes pixels and frames of what it says,
`track` picks one person, or `everybody` takes all of them, `layouts` recognises the layout and converts it, `mistakes`
refuses what cannot be a person in pixels, and `gaps` fills in what the detector did not see.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.keypoints.everybody import Everybody
    from common.keypoints.track import Track


def read_track(path: Path, person: int | None = None, video: str | None = None,
               size: tuple[float, float] | None = None, video_size: tuple[float, float] | None = None) -> Track:
    """Read one person's track from a file, or from a folder of files per frame.

    Args:
        person: the number that the file gives a person; in files that number nobody, a rank by score, from 1. None for
            the most frequent person, or the best score.
        video: its name, where a file holds several.
        size: (width, height) of the picture, for files with shares of it instead of pixels that do not say it.
        video_size: that of the video, where neither `size` nor the file says it.

    Raises FileError for a file that is missing, broken, empty or of an unknown tool, FlagError for a person or video
    that is not in it, or a size that is needed.
    """
    from common.keypoints import registry  # with all readers; the command line needs the layouts alone
    from common.keypoints.detections import to_track

    return to_track(path, registry.read(path), person, video, size, video_size)


def read_everybody(path: Path, video: str | None = None, size: tuple[float, float] | None = None,
                   video_size: tuple[float, float] | None = None) -> Everybody:
    """Read the tracks of all people from a file or folder; arguments and errors are those of `read_track`."""
    from common.keypoints import registry
    from common.keypoints.detections import to_everybody

    return to_everybody(path, registry.read(path), video, size, video_size)
