# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests that boot a guest share.

qemu       starts the test guest, and moves its device state by QEMU's own means
qmp        talks to QEMU's monitor
service    runs memferryd, and the command that talks to it
pair       two hosts with a memferryd each, and a guest that moves between them
move       follows a memferry migrate
monitor    stands between memferry and QEMU's monitor
strangers  servers that are not what their clients expect
trial      judges what becomes of a guest whose migration is disturbed
traces     what a migration may leave behind
heartbeat  follows what the guest prints, wherever it runs, and judges it
ramfile    compares, copies and searches files of guest memory
pattern    the bytes that the guest's workload fills its memory with
netns      two hosts: network namespaces joined by a link of a given speed
libvirt    two such hosts with a libvirtd each
domain     the test guest as a libvirt domain
nbdkit     an NBD server
slowdisk   a disk whose answers take time
tap        prints the results
suite      runs the tests of a folder
deadline   waits on a condition, never for a time

Only Python's standard library is used. All times are seconds of the host's monotonic clock, as time.monotonic() gives
them; a parameter called `seconds` is how long to wait at most.
"""
