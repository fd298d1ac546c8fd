# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that hold guest memory: comparing, copying, searching them.

Everything reads with pread: reading a hole of a tmpfs file through a mapping would allocate it. Sizes and offsets are bytes.
"""

import errno
import os

PAGE_BYTES = 4096
_CHUNK_BYTES = 4 << 20


def different_pages(path_a, path_b, size=None):
    """The numbers of all pages that differ, in order; every byte is compared. Files of unequal size (both at least `size`
    when that is given) are an error."""
    with open(path_a, "rb", buffering=0) as a, open(path_b, "rb", buffering=0) as b:
        sizes = os.fstat(a.fileno()).st_size, os.fstat(b.fileno()).st_size
        if size is None:
            size = sizes[0]
        if (sizes[0] != sizes[1] and size == sizes[0]) or min(sizes) < size:
            raise ValueError(f"{path_a} has {sizes[0]} bytes, {path_b} {sizes[1]}")
        different = []
        chunk_a, chunk_b = bytearray(_CHUNK_BYTES), bytearray(_CHUNK_BYTES)
        for offset in range(0, size, _CHUNK_BYTES):
            length = min(_CHUNK_BYTES, size - offset)
            if length < _CHUNK_BYTES:
                chunk_a, chunk_b = bytearray(length), bytearray(length)
            _read_whole(a, chunk_a, offset)
            _read_whole(b, chunk_b, offset)
            if chunk_a != chunk_b:
                different += _different_in(chunk_a, chunk_b, offset)
        return different


def copy(source, destination):
    """Makes `destination` equal to `source`, holes as holes where it had none before. A file that is there is written in place,
    so a QEMU may have it mapped. Returns the bytes copied."""
    copied = 0
    with open(destination, "ab"):
        pass
    with open(source, "rb", buffering=0) as reader, open(destination, "r+b", buffering=0) as writer:
        size = os.fstat(reader.fileno()).st_size
        for start, end in list(data_ranges(writer.fileno())):
            for offset in range(start, end, _CHUNK_BYTES):
                _write_whole(writer, bytes(min(_CHUNK_BYTES, end - offset)), offset)
        if os.fstat(writer.fileno()).st_size != size:
            writer.truncate(size)
        for start, end in data_ranges(reader.fileno()):
            for offset in range(start, end, _CHUNK_BYTES):
                chunk = bytearray(min(_CHUNK_BYTES, end - offset))
                _read_whole(reader, chunk, offset)
                _write_whole(writer, chunk, offset)
                copied += len(chunk)
    return copied


def data_ranges(fd):
    """Yields (start, end) of what is allocated in the file."""
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def find(path, content, within_page=0):
    """The offset at which `content` stands, `within_page` bytes into a page, or None."""
    with open(path, "rb", buffering=0) as file:
        for start, end in data_ranges(file.fileno()):
            for offset in range(start, end, _CHUNK_BYTES):
                chunk = os.pread(file.fileno(), min(_CHUNK_BYTES, end - offset), offset)
                at = chunk.find(content)
                while at >= 0:
                    if (offset + at) % PAGE_BYTES == within_page:
                        return offset + at
                    at = chunk.find(content, at + 1)
    return None


def read(path, offset, length=PAGE_BYTES):
    with open(path, "rb", buffering=0) as file:
        content = bytearray(length)
        _read_whole(file, content, offset)
        return bytes(content)


def write(path, offset, content):
    """Puts bytes into a file that somebody may have mapped."""
    with open(path, "r+b", buffering=0) as file:
        _write_whole(file, content, offset)


def flip_byte(path, offset):
    """Changes the byte at `offset` to another."""
    write(path, offset, bytes([read(path, offset, 1)[0] ^ 0x40]))


def allocated_bytes(path):
    return os.stat(path).st_blocks * 512


def _different_in(a, b, offset):
    return [
        (offset + at) // PAGE_BYTES
        for at in range(0, len(a), PAGE_BYTES)
        if a[at : at + PAGE_BYTES] != b[at : at + PAGE_BYTES]
    ]


def _read_whole(file, chunk, offset):
    done = 0
    while done < len(chunk):
        got = os.preadv(file.fileno(), [memoryview(chunk)[done:]], offset + done)
        if got == 0:
            raise ValueError(f"{file.name} ended at {offset + done}")
        done += got


def _write_whole(file, chunk, offset):
    done = 0
    while done < len(chunk):
        done += os.pwrite(file.fileno(), memoryview(chunk)[done:], offset + done)
