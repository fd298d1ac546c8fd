# SPDX-License-Identifier: LGPL-2.1-or-later
"""The test guest as a libvirt domain."""

import os

from . import qemu
from .pair import WORKLOAD

_XML = """<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{size}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{words}</cmdline>
  </os>
  <features>
    <acpi/>
    <tcg>
      <tb-cache unit='MiB'>64</tb-cache>
    </tcg>
  </features>
  <cpu mode='custom'>
    <model>qemu64</model>
{numa}  </cpu>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
{disk}    <controller type='usb' model='none'/>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='pci' index='1' model='pcie-root-port'/>
    <controller type='pci' index='2' model='pcie-root-port'/>
    <controller type='pci' index='3' model='pcie-root-port'/>
    <serial type='unix'>
      <source mode='connect' path='{serial}'/>
    </serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""
_NUMA = """    <numa>
      <cell id='0' cpus='0' memory='{half}' unit='MiB'/>
      <cell id='1' memory='{half}' unit='MiB'/>
    </numa>
"""
_DISK = """    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'{cache}/>
      <source file='{path}'/>
      <target dev='vda' bus='virtio'/>
      <readonly/>
    </disk>
"""


def definition(hosts, serial, *, name="vm", size=192, workload=WORKLOAD, numa=False, disk=None, cache=None, machine="pc-q35-7.2"):
    """The XML that defines the test guest on either of the Hosts, which get its kernel.

    serial    UNIX socket at which the heartbeat.Reader listens
    size      of its memory, MiB
    workload  words for the kernel's command line
    numa      two cells of equal size
    disk      file of a disk that make_disk() wrote; it is copied to both hosts
    cache     of the disk: "none" and so on
    """
    os.chmod(serial, 0o666)
    for host in hosts.host.values():
        kernel = host.add_image(os.path.join(qemu.IMAGES, "vmlinuz"), f"{name}-vmlinuz")
        initrd = host.add_image(os.path.join(qemu.IMAGES, "initrd.img"), f"{name}-initrd")
        disk_path = host.add_image(disk, f"{name}-disk") if disk else None
    return _XML.format(
        name=name,
        # The same for the same name on both hosts, as it has to be.
        uuid=f"f0f0f0f0-0000-4000-8000-{int.from_bytes(name.encode()[-6:], 'big'):012x}",
        size=size,
        machine=machine,
        kernel=kernel,
        initrd=initrd,
        words=" ".join((qemu.KERNEL_WORDS, *workload)),
        numa=_NUMA.format(half=size // 2) if numa else "",
        disk=_DISK.format(path=disk_path, cache=f" cache='{cache}'" if cache else "") if disk else "",
        serial=serial,
    )
