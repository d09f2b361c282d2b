"""A person drawn of ellipses and lines, good enough for a detector, and videos of them."""

import itertools
from fractions import Fraction

import numpy as np
from PIL import Image, ImageDraw

# COCO's joints of a person who stands and faces us, in shares of a square.
STANDING = np.array([
    [.500, .130], [.515, .115], [.485, .115], [.535, .125], [.465, .125], [.580, .260], [.420, .260], [.630, .400],
    [.370, .400], [.650, .530], [.350, .530], [.550, .530], [.450, .530], [.580, .700], [.420, .700], [.600, .880],
    [.400, .880]])
SKIN, SHIRT, TROUSERS, HAIR = (224, 172, 140), (40, 80, 170), (95, 100, 125), (70, 45, 30)
LIMBS = (((11, 13, 15), TROUSERS, .075), ((12, 14, 16), TROUSERS, .075), ((5, 7), SHIRT, .065), ((6, 8), SHIRT, .065),
         ((7, 9), SKIN, .045), ((8, 10), SKIN, .045))


def person(width, height, middle=0.5, size=1.0, background=(205, 205, 195)):
    """Return a picture (H, W, 3) uint8 with the person at `middle` of its width, and keypoints (17, 2) in pixels."""
    picture = Image.new('RGB', (width, height), background)
    pen, side = ImageDraw.Draw(picture), size * min(width, height)
    at = (STANDING - (0.5, 0.5)) * side + (middle * width, 0.5 * height)

    def blob(centre, across, along, colour):
        x, y = centre
        pen.ellipse((x - across * side, y - along * side, x + across * side, y + along * side), fill=colour)

    def tube(joints, colour, thick):
        for start, end in itertools.pairwise(joints):
            pen.line((*at[start], *at[end]), fill=colour, width=max(1, round(thick * side)))
        for joint in joints:
            blob(at[joint], thick / 2, thick / 2, colour)

    for joints, colour, thick in LIMBS:
        tube(joints, colour, thick)
    pen.polygon([tuple(at[joint]) for joint in (5, 6, 12, 11)], fill=SHIRT)
    tube((5, 6), SHIRT, .07)
    tube((11, 12), TROUSERS, .08)
    for ankle in (15, 16):
        blob(at[ankle] + (0, .02 * side), .035, .02, (30, 30, 30))
    for wrist in (9, 10):
        blob(at[wrist], .03, .035, SKIN)
    tube((0, 0), SKIN, .07)
    pen.line((*at[0], at[0][0], at[5][1]), fill=SKIN, width=max(1, round(.05 * side)))
    blob(at[0] - (0, .015 * side), .055, .068, HAIR)
    blob(at[0] + (0, .008 * side), .045, .058, SKIN)
    for eye in (1, 2):
        blob(at[eye], .008, .006, (20, 20, 20))
    blob(at[0] + (0, .03 * side), .016, .005, (160, 60, 60))
    return np.array(picture), at


def write_video(path, frames, fps=25, times=None, turned=False):
    """Write frames (H, W, 3) as H.264; at `times` in seconds if given.

    `turned` says that a player is to turn them by 90 degrees clockwise, as phones do that are held upright.
    """
    import av
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=fps)
        stream.pix_fmt, stream.bit_rate = 'yuv420p', 3_000_000
        stream.height, stream.width = frames[0].shape[:2]
        stream.codec_context.time_base = tick = Fraction(1, 12000)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), 'rgb24')
            picture.time_base = tick
            picture.pts = round(12000 * (number / fps if times is None else times[number]))
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    if turned:  # the matrix of the track's header
        one, none = bytes.fromhex('00010000'), bytes(4)
        whole, straight = path.read_bytes(), one + 3 * none + one
        at = whole.index(straight, whole.index(b'tkhd'))
        path.write_bytes(whole[:at] + none + one + none + bytes.fromhex('ffff0000') + none + whole[at + 20:])


def walking(count, width=240, height=320):
    """Return `count` pictures of the person, who moves to the right, and the keypoints (T, 17, 2) in pixels."""
    drawn = [person(width, height, 0.45 + 0.1 * t / max(1, count - 1)) for t in range(count)]
    return [picture for picture, _ in drawn], np.array([points for _, points in drawn])
