# SPDX-License-Identifier: LGPL-2.1-or-later
"""The link that cases are measured over (bench-relay), and case link: what it does, and what it costs."""
import json
import os
import subprocess

from .case import Case, Plot, way
from .host import BenchError
from .nbd import free_port

GIB = 1 << 30
DELAYS_MS = {False: (0, 1, 5, 25, 100), True: (0, 1)}
RATES_MBIT = {False: (100, 1000, 5000), True: (1000,)}
DIRECT, RELAY = "direct", "through bench-relay"


class Relay:
    """A bench-relay; use as a context manager. `ends`: pairs of where it listens and what it leads to. Times are there and back in ms,
    rates Mbit/s, None is unlimited."""

    def __init__(self, host, ends, rtt_ms=0, rate_mbit=None, prefix=(), more=()):
        words = ["--delay", rtt_ms / 2, *(["--rate", rate_mbit] if rate_mbit else []), *more]
        self.host = host
        self.command = [*prefix, host.program("bench-relay"), *map(str, words), *(word for pair in ends for word in pair)]

    def __enter__(self):
        self.process = self.host.start(*self.command, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise BenchError(f"{' '.join(self.command)}: did not get ready")
        return self

    def __exit__(self, *_):
        self.host.stop(self.process)
        self.printed = self.process.stdout.read()
        self.process.stdout.close()

    def measured(self):
        """Once it has ended: how late it let bytes out, and how many."""
        found = json.loads(self.printed)
        return {"late_p50": found["p50"], "late_p99": found["p99"], "stalls": found["stalls"]}


def place(host, kind, name):
    return f"unix:{os.path.join(host.scratch, name)}" if kind == "unix" else f"tcp:127.0.0.1:{free_port()}"


def exchange(host, kind, relay, *options):
    """relay: what the Relay is made with; None: none."""
    target = place(host, kind, "target")
    if relay is None:
        return host.measure("bench-exchange", *options, target, target)
    listen = place(host, kind, "relay")
    with Relay(host, [(listen, target)], **relay) as between:
        measured = host.measure("bench-exchange", *options, target, listen)
    return {**measured, **between.measured()}


def round_trips(host, kind, rtt_ms, relay):
    """`off_p50`: how much longer than the link's own time."""
    count = max(20, min(2000, int(4000 / (rtt_ms or 1)))) // (10 if host.quick else 1)
    # Who sends in a row is answered by processors that never sleep: not what goes over a slow link.
    measured = exchange(host, kind, relay, "--messages", count, "--pause", 200)
    return {**measured, "off_p50": measured["p50"] - rtt_ms * 1000}


def stream(host, kind, rate_mbit, connections, relay):
    seconds = 0.3 if host.quick else 1.5
    size = int(rate_mbit * 1e6 / 8 * seconds) if rate_mbit else GIB // (16 if host.quick else 1)
    each = size // connections >> 12 << 12
    measured = exchange(host, kind, relay, "--stream", each, "--connections", connections)
    measured["mbit_per_s"] = each * connections * 8 / measured["seconds"] / 1e6
    return measured


def ways(host):
    for kind in ("tcp", "unix"):
        yield way(DIRECT, link=kind, what="round trip"), lambda kind=kind: round_trips(host, kind, 0, None)
        for delay in DELAYS_MS[host.quick]:
            yield (way(RELAY, link=kind, what="round trip", delay_ms=delay),
                   lambda kind=kind, delay=delay: round_trips(host, kind, 2 * delay, {"rtt_ms": 2 * delay}))
        for connections in (1, 2):
            yield (way(DIRECT, link=kind, what="stream", connections=connections),
                   lambda kind=kind, n=connections: stream(host, kind, None, n, None))
            yield (way(RELAY, link=kind, what="stream", connections=connections),
                   lambda kind=kind, n=connections: stream(host, kind, None, n, {}))
            for rate in RATES_MBIT[host.quick]:
                yield (way(RELAY, link=kind, what="stream", connections=connections, rate_mbit=rate),
                       lambda kind=kind, n=connections, rate=rate: stream(host, kind, rate, n, {"rate_mbit": rate}))


def goals(results):
    rows = []
    for which in results.ways:
        if which.at("delay_ms") not in (None, "0"):
            direct = results.median(way(DIRECT, link=which.at("link"), what="round trip"), "p50")
            off = results.median(which, "off_p50")
            rows.append((f"{which.at('link')}, {which.at('delay_ms')} ms: each way off by, beside a direct exchange, us", "<=", 100,
                         abs(off - (direct or 0)) / 2))
        if which.at("rate_mbit"):
            rows.append((f"{which.at('link')} x{which.at('connections')}, {which.at('rate_mbit')} Mbit/s: rate / wanted", ">=", 0.97,
                         results.median(which, "mbit_per_s") / float(which.at("rate_mbit"))))
    return rows


CASE = Case(
    name="link",
    title=lambda host: "messages of 64 bytes there and back, and streams, through the link that the other cases use",
    axes=("link", "what", "connections", "delay_ms", "rate_mbit"),
    measures={"p50": ("p50 us", 1), "p90": ("p90 us", 1), "p99": ("p99 us", 1), "off_p50": ("p50 off us", 1),
              "late_p50": ("let out late, p50 us", 1), "late_p99": ("p99 us", 1), "mbit_per_s": ("Mbit/s", 0)},
    ways=ways,
    goals=goals,
    plots=(Plot("delay", "How much longer a message of 64 bytes takes there and back than the link's delays", "off_p50", "delay_ms",
                "delay, one way, ms", "us", ("what=round trip", "link=tcp")),),
)
