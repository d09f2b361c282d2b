"""Zip archives, the containers of npz files and of torch.save, read so that no damage passes unnoticed.

Python's zipfile compares a member's sum only when it is read to its end, and torch compares none. Here every member is
read whole, in the size that is declared and with the sum that is declared, and no name occurs twice.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import TypeAlias

from common.storage.files import MIB, most_inflated, shown

MOST_MEMBERS = 100_000
_ENCRYPTED, _SIZES_BEHIND = 0x1, 0x8  # bits of a member's flags
_LONGEST_DESCRIPTOR = 24  # what may stand behind a member: its sum and sizes
_LOCAL = struct.Struct('<4sHHHHHIIIHH')
_ELSEWHERE = 0xffffffff  # a size that stands in the zip64 extra field

Buffer: TypeAlias = bytes | memoryview


class DamagedArchive(ValueError):
    """An archive contradicts itself: a wrong sum or size, a name twice, more than it can hold."""


def members(content: bytes, sums_left_out: bool = False) -> Iterator[tuple[str, Buffer]]:
    """Yield (name, bytes) of each member of an archive, in its order, inflated and compared with its sum.

    Args:
        content: the whole file.
        sums_left_out: accept an archive in which all sums are 0, as torch can be told to write it.

    Raises DamagedArchive, or what zipfile and zlib raise.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as listed:
        infos, list_at = listed.infolist(), listed.start_dir
    _check_list(infos, len(content))
    view = memoryview(content)
    spans = [_span(info, view) for info in infos]
    _check_spans(infos, spans, list_at)
    unsummed = sums_left_out and not any(info.CRC for info in infos)
    for info, span in zip(infos, spans, strict=True):
        data = _inflated(info, view[span])
        if not unsummed and zlib.crc32(data) != info.CRC:
            raise DamagedArchive(f'the sum of its member {shown(info.filename)} is wrong')
        yield info.filename, data


def _check_list(infos: list[zipfile.ZipInfo], size: int) -> None:
    """Raise DamagedArchive for a list of members that cannot be that of a file of this size."""
    if len(infos) > MOST_MEMBERS:
        raise DamagedArchive(f'it has {len(infos):,} members, expected at most {MOST_MEMBERS:,}')
    seen: set[str] = set()
    for info in infos:
        if info.filename in seen:
            raise DamagedArchive(f'it has two members {shown(info.filename)}')
        seen.add(info.filename)
    total, most = sum(info.file_size for info in infos), most_inflated(size)
    if total > most:
        raise DamagedArchive(f'it would fill {total // MIB:,} MiB, expected at most {most // MIB:,} MiB of a file of '
                             f'{size:,} bytes')


def _check_spans(infos: list[zipfile.ZipInfo], spans: list[slice], list_at: int) -> None:
    """Raise DamagedArchive unless members lie one behind the other from the first byte to the list of them.

    A damaged list may leave members out, or name a place twice.
    """
    end, slack = 0, 0
    for info, span in sorted(zip(infos, spans, strict=True), key=lambda pair: pair[0].header_offset):
        if not end <= info.header_offset <= end + slack:
            raise DamagedArchive(f'there is a gap or an overlap before its member {shown(info.filename)}')
        end, slack = span.stop, _LONGEST_DESCRIPTOR if info.flag_bits & _SIZES_BEHIND else 0
    if not end <= list_at <= end + slack:
        raise DamagedArchive('its list does not name all that is in it')


def _span(info: zipfile.ZipInfo, content: memoryview) -> slice:
    """Return where a member's bytes lie in the archive. Its own header must agree with the list of members."""
    if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DamagedArchive(f'its member {shown(info.filename)} is encrypted or compressed in an unknown way')
    if info.header_offset + _LOCAL.size > len(content):
        raise DamagedArchive('it is cut short')
    magic, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack_from(
        content, info.header_offset)
    start = info.header_offset + _LOCAL.size
    name = bytes(content[start:start + name_length])
    agrees = magic == b'PK\x03\x04' and method == info.compress_type and name == _encoded(info)
    if not flags & _SIZES_BEHIND:
        agrees = agrees and crc == info.CRC and all(
            local in (_ELSEWHERE, listed) for local, listed in ((packed, info.compress_size), (size, info.file_size)))
    if not agrees:
        raise DamagedArchive(f'the header of its member {shown(info.filename)} is not what the list of members says')
    start += name_length + extra_length
    if start + info.compress_size > len(content):
        raise DamagedArchive('it is cut short')
    return slice(start, start + info.compress_size)


def _encoded(info: zipfile.ZipInfo) -> bytes:
    """Return a member's name as bytes of the archive."""
    return info.orig_filename.encode('utf-8' if info.flag_bits & 0x800 else 'cp437')


def _inflated(info: zipfile.ZipInfo, stored: memoryview) -> Buffer:
    """Return a member's content, never inflating more than is declared."""
    data: Buffer = stored
    if info.compress_type == zipfile.ZIP_DEFLATED:
        inflating = zlib.decompressobj(-15)
        data = inflating.decompress(stored, info.file_size + 1)
        if len(data) <= info.file_size:
            data += inflating.flush()
    if len(data) != info.file_size:
        raise DamagedArchive(f'its member {shown(info.filename)} has another size than it declares')
    return data


def inflate(packed: Buffer, most: int) -> bytes:
    """Return the content of a zlib or gzip stream, or of several gzip streams one behind the other.

    Raises DamagedArchive where it is cut short or would be more than `most` bytes, and zlib.error where it is damaged.
    """
    parts: list[bytes] = []
    rest, room = bytes(packed), most
    while True:
        inflating = zlib.decompressobj(47)  # zlib's or gzip's header
        parts.append(inflating.decompress(rest, room + 1))
        room -= len(parts[-1])
        if room < 0:
            raise DamagedArchive(f'it would fill more than {most // MIB:,} MiB')
        if not inflating.eof:
            raise DamagedArchive('it is cut short')
        rest = inflating.unused_data
        if not rest.startswith(b'\x1f\x8b'):  # as gzip does, pass over what is behind the last stream
            return b''.join(parts)
