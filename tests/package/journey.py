# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two machines with nothing but the packages, and the first migrations of docs/operators-guide.md between them."""

import json
import os
import re
import shutil
import subprocess

from machine import Machine
from mfvm import netns
from mfvm.deadline import wait_until

TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
SIZE = "256M"
QEMU = (
    f"qemu-system-x86_64 -accel tcg -m {SIZE} -machine q35,memory-backend=ram -object memory-backend-file,id=ram,size={SIZE},"
    "mem-path=/dev/shm/memferry/vm1,share=on -qmp unix:/run/vm1.qmp,server=on,wait=off -display none -monitor none "
    "-serial file:/run/serial -kernel /srv/vm/vmlinuz -initrd /srv/vm/initrd.img "
    "-append 'console=ttyS0 mf.fill=96M mf.dirty=32M mf.rate=10000000 mf.verify=16M mf.heartbeat=20'"
)
SECONDS = 120


def make_guest(root):
    subprocess.run([f"{TOP}/vm-images/build", f"{root}/srv/vm"], check=True, capture_output=True, timeout=600)


class Host:
    """A machine with the package, and a guest on it."""

    def __init__(self, machine, address):
        self.machine, self.address = machine, address
        self._guest = None
        machine.do(f"printf '[listen]\\naddresses=tcp://{address}\\n' >/etc/memferry/memferry.conf && systemctl restart memferryd")

    def start_guest(self, *more):
        if self._guest:
            self.machine.do(f"kill -KILL {self.region()['pid']}")
            self._guest.communicate()
            wait_until(lambda: self.region()["pid"] is None, SECONDS, "end of the former guest")
        self._guest = self.machine.begin("sh", "-c", f"exec memferry run --region vm1 --size {SIZE} --qmp /run/vm1.qmp -- {QEMU} {' '.join(more)}")
        wait_until(lambda: (self.region() or {}).get("pid"), SECONDS, "guest that has the region mapped")

    def region(self):
        listed = self.machine.do("memferry list --json")
        return json.loads(listed) if listed else None

    def job(self):
        return [json.loads(line) for line in self.machine.do("memferry jobs --json").splitlines()][-1]

    def beats(self):
        """Numbers and errors that the guest has printed here."""
        text = self.machine.run("cat /run/serial").stdout
        return [(int(n), int(errors)) for n, errors in re.findall(r"^HB (\d+) .*errors=(\d+)\s*$", text, re.M)]

    def wait_beats(self, count):
        """Until there are `count` more."""
        begin = len(self.beats())
        wait_until(lambda: len(self.beats()) >= begin + count, SECONDS, "heartbeats of the guest", interval=0.2)
        return self.beats()


def is_well(beats):
    numbers = [n for n, _ in beats]
    return bool(numbers) and numbers == list(range(numbers[0], numbers[0] + len(numbers))) and not any(errors for _, errors in beats)


def travel(results, left, right):
    left.start_guest()
    right.start_guest("-incoming defer")
    left.wait_beats(50)
    said = left.machine.run(f"memferry migrate vm1 --to tcp://{right.address} --max-downtime 300")
    results.ok(said.returncode == 0 and said.stdout.startswith(f"vm1 moved to tcp://{right.address} in "), "the first migration", said)
    results.ok(is_well(right.wait_beats(100)), "the guest is well on the other host", right.beats()[:3])
    results.equal(left.region()["state"], "away", "it has left this one")

    left.start_guest("-incoming defer")
    right.machine.do(f"memferry migrate vm1 --to tcp://{left.address} --mode postcopy --bandwidth 10M --detach")
    wait_until(lambda: left.job()["stage"] == "post-copy" and left.job()["bytes"] > 0, SECONDS, "post-copy")
    for host, how in [(left, "systemctl restart memferryd"), (right, "systemctl restart memferryd"), (left, "systemctl kill -s KILL memferryd")]:
        host.machine.do(how)
        wait_until(lambda host=host: host.machine.run("memferry jobs").returncode == 0, SECONDS, "service that is back")
    wait_until(lambda: right.job()["state"] == "done" and left.job()["state"] == "done", SECONDS, "end of the post-copy")
    results.ok(left.region()["state"] == "here" and right.region()["state"] == "away",
               "a post-copy comes to its end though the services are restarted and killed", (left.region(), right.region()))
    # Long enough for the guest to have looked at all of its memory.
    results.ok(is_well(left.wait_beats(400)), "the guest is well after that", left.beats()[:3])


def test(results, root, logs, work):
    """`root` has the package."""
    other = f"{work}/other"
    make_guest(root)
    subprocess.run(["cp", "-a", root, other], check=True)
    try:
        with netns.HostPair("mfp") as pair:
            places = {host: f"/run/netns/{name}" for host, name in pair.names.items()}
            with Machine(root, f"{logs}/left.log", places["a"]) as a, Machine(other, f"{logs}/right.log", places["b"]) as b:
                # Guests end with their machines.
                travel(results, Host(a, pair.address["a"]), Host(b, pair.address["b"]))
    finally:
        shutil.rmtree(other, ignore_errors=True)
