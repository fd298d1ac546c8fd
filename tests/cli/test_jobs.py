# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrations as jobs: what is shown, how they are cancelled, and what becomes of them. Over a host that moves nothing."""

import json
import os
import pty
import select
import signal

from mfcli.check import contains, equal, fails, true
from mfcli.host import MEMFERRY, SCRIPTED, SECONDS, Host, wait_until

KEYS = {"id", "kind", "direction", "regions", "peer", "mode", "state", "stage", "round", "bytes", "total_bytes",
        "remaining_bytes", "rate", "dirty_rate", "predicted_downtime_usec", "downtime_usec", "pauses",
        "longest_pause_usec", "faults", "fault_p50_usec", "fault_p99_usec", "elapsed_usec", "error", "message", "ready"}


def started():
    host = Host(SCRIPTED).start()
    host.do("create", "vm1", "--size", "64M")
    return host


def wait_for_job(host, number, **expected):
    def is_so():
        jobs = [j for j in host.json("jobs") if j["id"] == number]
        return jobs and all(jobs[0][k] == v for k, v in expected.items())

    wait_until(is_so, SECONDS, f"job {number} with {expected}")


def begin(host, *words, **kwargs):
    """A migration that is under way, and the number of its job."""
    last = max([j["id"] for j in host.json("jobs")], default=0)
    process = host.begin("migrate", "vm1", *words, **kwargs)
    wait_for_job(host, last + 1, round=1)
    return process, last + 1


def test_summary():
    with started() as host:
        text = host.do("migrate", "vm1", "--to", "tcp://done", "--mode", "postcopy")
        equal(text.count("\n"), 1)
        contains(text, "vm1 moved to tcp://done in ", ": postcopy, 48M in 1 round, downtime 14.2 ms, 812 faults (p50 210 us, "
                                                       "p99 1.9 ms)")


def test_fetch():
    with started() as host:
        text = host.do("migrate", "vm1", "--from", "tcp://done", "--qmp", "/run/here", "--peer-qmp", "/run/there")
        contains(text, "vm1 moved from tcp://done in ", ": auto, 48M in 1 round, downtime 14.2 ms")
        equal(host.job(1)["direction"], "incoming")
        fails(host.run("migrate", "vm1", "--from", "tcp://fails"), "it writes faster than the link carries")
        fails(host.run("migrate", "vm2", "--from", "tcp://done"), "vm2")


def test_json_lines():
    with started() as host:
        lines = host.json("migrate", "vm1", "--to", "tcp://done")
        for line in lines:
            equal(set(line), KEYS)
        equal(lines[-1]["state"], "done")
        equal(lines[-1]["downtime_usec"], 14200)
        true(all(line["state"] == "running" for line in lines[:-1]) and len(lines) > 1, lines)
        equal(host.job(1), lines[-1])


def test_unknown_is_null():
    with started() as host:
        process, number = begin(host, "--to", "tcp://stays")
        job = host.job(number)
        equal(job["downtime_usec"], None)
        equal(job["error"], None)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)


def test_failure():
    with started() as host:
        fails(host.run("migrate", "vm1", "--to", "tcp://fails"), "memferry migrate: it writes faster than the link carries")
        job = host.job(1)
        equal((job["state"], job["error"], job["message"]), ("failed", "NotConverging", "it writes faster than the link carries"))


def test_refusal():
    with started() as host:
        fails(host.run("migrate", "vm1", "--to", "tcp://refused"), "tcp://refused is no peer")
        equal(host.json("jobs"), [])


def test_region_has_its_job():
    with started() as host:
        process, number = begin(host, "--to", "tcp://stays")
        equal(host.region("vm1")["job"], number)
        equal(host.region("vm1")["state"], "leaving")
        contains(host.do("show", "vm1"), f"job:        {number}\n")
        fails(host.run("migrate", "vm1", "--to", "tcp://done"), "vm1", "a migration has it")
        fails(host.run("remove", "vm1"), "a migration has it")
        fails(host.run("remove", "vm1", "--force"), "a migration has it")
        host.do("cancel", number)
        process.communicate(timeout=SECONDS)
        equal(host.region("vm1")["job"], None)
        host.do("remove", "vm1")


def test_interrupt_cancels():
    with started() as host:
        process, number = begin(host, "--to", "tcp://stays")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=SECONDS)
        equal((process.returncode, output), (1, ""))
        equal(errors, "memferry migrate: cancelled; it goes on here as before\n")
        equal(host.job(number)["state"], "cancelled")
        equal(host.region("vm1")["state"], "here")


def test_terminate_cancels():
    with started() as host:
        process, number = begin(host, "--to", "tcp://stays")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
        equal(process.returncode, 1)
        equal(host.job(number)["state"], "cancelled")


def test_second_interrupt_leaves():
    """A service that does not answer does not keep the command."""
    with started() as host:
        process, number = begin(host, "--to", "tcp://stays")
        os.kill(host.process.pid, signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        # Two that come at once are one: so again and again.
        wait_until(lambda: process.poll() is not None or process.send_signal(signal.SIGINT), SECONDS, "end of the command",
                   interval=0.05)
        output, errors = process.communicate(timeout=SECONDS)
        os.kill(host.process.pid, signal.SIGCONT)
        equal((process.returncode, output), (1, ""))
        equal(errors, f"memferry migrate: left; the service goes on cancelling job {number}\n")
        wait_for_job(host, number, state="cancelled")


def test_interrupt_past_the_switchover():
    with started() as host:
        process, number = begin(host, "--to", "tcp://past")
        wait_for_job(host, number, stage="post-copy")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=SECONDS)
        equal((process.returncode, output), (1, ""))
        contains(errors, f"memferry migrate: job {number} goes on", "no way back")
        equal(host.job(number)["state"], "running")
        fails(host.run("cancel", number), "no way back")
        host.process.send_signal(signal.SIGUSR1)
        wait_for_job(host, number, state="done")


def test_command_that_is_killed():
    """Nobody looks after it any more: it is cancelled, but not past the switchover."""
    with started() as host:
        process, number = begin(host, "--to", "tcp://stays")
        process.kill()
        process.wait()
        wait_for_job(host, number, state="cancelled")
        process, number = begin(host, "--to", "tcp://past")
        wait_for_job(host, number, stage="post-copy")
        process.kill()
        process.wait()
        wait_until(lambda: f"job {number}: goes on" in host.log.read_text(), SECONDS, "word of it in the log")
        equal(host.job(number)["state"], "running")


def test_another_client_goes():
    """Only who asked for it matters."""
    with started() as host:
        process, number = begin(host, "--to", "tcp://stays")
        other = host.begin("watch", "--json")
        other.stdout.readline()
        other.kill()
        other.communicate()
        host.do("list")
        equal(host.job(number)["state"], "running")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)


def test_detached():
    with started() as host:
        equal(host.do("migrate", "vm1", "--to", "tcp://stays", "--detach"), "1\n")
        host.do("list")
        equal(host.job(1)["state"], "running")
        host.do("cancel", "1")
        wait_for_job(host, 1, state="cancelled")
        job = json.loads(host.do("migrate", "vm1", "--to", "tcp://done", "--detach", "--json"))
        equal((job["id"], set(job)), (2, KEYS))
        wait_for_job(host, 2, state="done")


def test_cancel_of_what_has_ended():
    with started() as host:
        host.do("migrate", "vm1", "--to", "tcp://done")
        fails(host.run("cancel", "1"), "job 1 has ended")


def test_service_that_ends():
    with started() as host:
        process, _ = begin(host, "--to", "tcp://stays")
        host.kill()
        output, errors = process.communicate(timeout=SECONDS)
        equal((process.returncode, output, errors.count("\n")), (1, "", 1))
        contains(errors, "the service has ended", "memferry jobs")


def test_last_jobs_are_kept():
    with started() as host:
        for _ in range(40):
            host.run("migrate", "vm1", "--to", "tcp://fails")
        process, number = begin(host, "--to", "tcp://stays")
        equal([j["id"] for j in host.json("jobs")], list(range(9, 41)) + [41])
        equal(number, 41)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)


def test_jobs_table():
    with started() as host:
        equal(host.do("jobs").split(), ["ID", "REGIONS", "DIRECTION", "PEER", "MODE", "STATE", "STAGE", "BYTES", "DOWNTIME"])
        host.do("create", "nvram", "--size", "64K")
        host.do("migrate", "vm1", "nvram", "--to", "tcp://done")
        line = host.do("jobs").splitlines()[1]
        equal(line.split(), ["1", "vm1,nvram", "outgoing", "tcp://done", "auto", "done", "done", "48M", "14.2", "ms"])
        equal(host.do("jobs", "--quiet"), "1\n")


def read_terminal(words, environment):
    """What a command shows on a terminal of 100 columns, and its status."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(MEMFERRY, [str(MEMFERRY), *words], environment)
    import fcntl
    import struct
    import termios
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    shown = b""
    while select.select([fd], [], [], SECONDS)[0]:
        try:
            part = os.read(fd, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(fd)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_progress_on_a_terminal():
    with started() as host:
        shown, status = read_terminal(["migrate", "vm1", "--to", "tcp://done"], host.environment())
        equal(status, 0)
        contains(shown, "\r\033[Kvm1 to tcp://done: pre-copy round 1, 48M of 64M, 98.0M/s, dirty 80.0M/s, downtime 41.0 ms if")
        lines = shown.replace("\r\n", "\n").split("\r\033[K")
        true(all(len(line) <= 99 and "\n" not in line for line in lines[:-1]), lines)
        # The last line takes the progress' place.
        true(lines[-1].startswith("vm1 moved to tcp://done") and lines[-1].endswith("\n"), lines[-1])


def test_failure_on_a_terminal():
    with started() as host:
        shown, status = read_terminal(["migrate", "vm1", "--to", "tcp://fails"], host.environment())
        equal(status, 1)
        equal(shown.replace("\r\n", "\n").split("\r\033[K")[-1], "memferry migrate: it writes faster than the link carries\n")


def test_nothing_on_a_pipe():
    with started() as host:
        process, _ = begin(host, "--to", "tcp://stays")
        host.do("cancel", "1")
        output, errors = process.communicate(timeout=SECONDS)
        equal(output, "")
        equal(errors, "memferry migrate: cancelled; it goes on here as before\n")


def test_watch_tells_of_jobs():
    with started() as host:
        watch = host.begin("watch")
        contains(watch.stdout.readline(), "region vm1 present: 64M, here, no program")
        host.do("migrate", "vm1", "--to", "tcp://done")
        lines = []
        while not lines or "moved to" not in lines[-1]:
            lines.append(watch.stdout.readline())
            true(lines[-1], lines)
        jobs = [line for line in lines if " job 1 " in line]
        contains("".join(jobs), "connect", "pre-copy round 1", "post-copy", "vm1 moved to tcp://done")
        watch.send_signal(signal.SIGINT)
        watch.communicate(timeout=SECONDS)
        equal(watch.returncode, 0)
