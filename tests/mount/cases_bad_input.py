# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can't be mounted is told in one line, and leaves nothing behind."""

import os

from mountlab import MEMFERRY, Mount, check, write_file
from nbdlab import refused


def refuse(folder, backend, part, *options, name="mounted"):
    path = os.path.join(folder, name)
    text = refused(MEMFERRY, "mount", backend, path, *options)
    check(part in text, f"{text!r} does not say {part!r}")
    return text


def case_backends(folder):
    """backends that there aren't"""
    write_file(os.path.join(folder, "image"), bytes(100000))
    for backend, part in [("disk.img", "is no backend"), ("tape:x", "no plugin tape"), ("file:/nonexistent", "/nonexistent"),
                          ("memory:", "size is missing"), ("memory:x", "it is a size"), ("dir:/nonexistent", "size=SIZE"),
                          (f"nbd+unix:///?socket={folder}/none", "none"), ("nbdkit:", "nbdkit:PLUGIN"),
                          ("nbdkit:nonexistent-plugin", "nonexistent-plugin"), (f"nbdkit:file,{folder}/none", "none"),
                          ("memory:60T", "does not fit into memory")]:
        refuse(folder, backend, part)
        check(not os.path.exists(os.path.join(folder, "mounted")), f"{backend}: the mount point is still there")


def case_options(folder):
    """options that make no sense"""
    for options, part in [(["--pull-first", "0"], "OFFSET+LENGTH"), (["--pull-first", "1+x"], "OFFSET+LENGTH"),
                          (["--pull-first", "0+2M"], "can't be pulled first"), (["--pull-first", "1M+1"], "can't be pulled first"),
                          (["--push-interval", "-1"], "--push-interval"), (["--timeout", "nan"], "--timeout"),
                          (["--direct", "--pull-first", "0+1"], "--direct")]:
        refuse(folder, "memory:1M", part, *options)


def case_places(folder):
    """places where nothing can be mounted"""
    write_file(os.path.join(folder, "letter"), b"Dear")
    os.mkdir(os.path.join(folder, "folder"))
    os.symlink("letter", os.path.join(folder, "link"))
    refuse(folder, "memory:1M", "not empty", name="letter")
    refuse(folder, "memory:1M", "not a regular file", name="folder")
    refuse(folder, "memory:1M", "not a regular file", name="link")
    refuse(folder, "memory:1M", "nowhere/mounted", name="nowhere/mounted")
    with Mount(folder, "memory:1M"):
        refuse(folder, "memory:1M", "mount point already")
