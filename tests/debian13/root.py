# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Debian of another release in a folder, and programs that run in it as on a host of its own: with its own mounts, network, processes and
name. It is fetched once; nothing that runs in it can write to it."""

import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile

MIRROR = "http://deb.debian.org/debian"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# What is bound into the root, where nothing can be made later.
SOURCE, CACHE, LOGS = "/srv/memferry", "/srv/cache", "/srv/logs"

# debootstrap knows no alternatives among dependencies, apt does. No package's service is to start.
_MAKE = """
set -eu
mount --make-rprivate /
debootstrap --variant=minbase {release} {folder} {mirror}
mkdir -p {folder}{source} {folder}{cache} {folder}{logs}
cp /etc/resolv.conf {folder}/etc/resolv.conf
printf '#!/bin/sh\\nexit 101\\n' >{folder}/usr/sbin/policy-rc.d
chmod 755 {folder}/usr/sbin/policy-rc.d
mount -t proc proc {folder}/proc
mount --rbind /dev {folder}/dev
inside() {{ chroot {folder} env -i PATH={path} LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }}
inside apt-get update -qq
inside apt-get install -y -qq --no-install-recommends {packages}
inside apt-get clean
"""
# Not chroot: a QEMU whose libvirt gives it mounts of its own would find the wrong root. The first process reaps what others leave.
_ENTER = """
set -eu
mount --make-rprivate /
mount --bind {root} {root}
cd {root}
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=755 tmpfs run
mount --bind {work} tmp
mount --bind {top} .{source}
mount -o remount,bind,ro .{source}
mount --bind {cache_folder} .{cache}
mount --bind {logs_folder} .{logs}
mount -o remount,bind,ro .
pivot_root . .
umount -l .
cd /
hostname {name}
ip link set lo up
echo ready
exec bash -c 'sleep infinity & wait'
"""


def make(folder, release, packages):
    """Debian `release` with `packages` in `folder`, unless it is there already. Needs the network then. RuntimeError with the end of what
    was said."""
    script = _MAKE.format(release=release, folder=shlex.quote(folder), mirror=MIRROR, source=SOURCE, cache=CACHE, logs=LOGS, path=PATH,
                          packages=" ".join(packages))  # fmt: skip
    stamp = hashlib.sha256(script.encode()).hexdigest()
    if _stamp_of(folder) == stamp:
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=1800, check=False,
                          stdin=subprocess.DEVNULL)  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"Debian {release} could not be made: {(done.stdout + done.stderr)[-1500:]}")
    with open(f"{folder}/.stamp", "w", encoding="ascii") as file:
        file.write(stamp)


def _stamp_of(folder):
    try:
        with open(f"{folder}/.stamp", encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        return None


class Root:
    """Programs run in it. A context manager; leaving it ends them all, and leaves nothing of what they have mounted or written but logs.

    folder   from make()
    top      the source, at SOURCE inside, where it can't be written to
    cache    vm-images' cache, at CACHE inside
    logs     a folder, at LOGS inside
    """

    def __init__(self, folder, name, *, top, cache, logs):
        self._folders = {"root": folder, "top": top, "cache_folder": cache, "logs_folder": logs}
        self._name = name
        self._stack = contextlib.ExitStack()
        self._init = None

    def __enter__(self):
        try:
            # Its /tmp: on a disk, for there is much to build in it.
            work = tempfile.mkdtemp(prefix="mfd-", dir="/var/tmp")
            self._stack.callback(shutil.rmtree, work, ignore_errors=True)
            os.chmod(work, 0o1777)
            self._start({**self._folders, "work": work})
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _start(self, folders):
        quoted = {name: shlex.quote(path) for name, path in folders.items()}
        script = _ENTER.format(name=self._name, source=SOURCE, cache=CACHE, logs=LOGS, **quoted)
        holder = subprocess.Popen(
            ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._stack.callback(self._end, holder)
        if holder.stdout.readline() != "ready\n":
            raise RuntimeError("the root could not be entered")
        with open(f"/proc/{holder.pid}/task/{holder.pid}/children", encoding="ascii") as children:
            self._init = children.read().split()[0]

    @staticmethod
    def _end(holder):
        # Its first process dies with it, and all others with that; the pipe is closed when they have.
        holder.kill()
        holder.wait()
        holder.stdout.read()
        holder.stdout.close()

    def command(self, *words, **environment):
        """The command that runs another one in it; it gets SIGTERM when this one ends."""
        variables = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", "MF_VM_CACHE": CACHE,
                     "MEMFERRY_LOGS": LOGS, **environment}  # fmt: skip
        return ["nsenter", f"--target={self._init}", "--mount", "--uts", "--ipc", "--net", "--pid", f"--wdns={SOURCE}",
                "setpriv", "--pdeathsig=TERM", "env", "-i", *(f"{name}={value}" for name, value in variables.items()), *words]  # fmt: skip

    def run(self, *words, seconds=900, **environment):
        """Runs it and returns what subprocess.run() does."""
        return subprocess.run(self.command(*words, **environment), capture_output=True, text=True, timeout=seconds, check=False,
                              stdin=subprocess.DEVNULL)  # fmt: skip
