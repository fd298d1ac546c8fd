# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one sees: a live line on a terminal, a line a second on a pipe, and a table at the end."""

import shutil
import sys
import time

LINE_SECONDS = 1.0


class Display:
    def __init__(self, out=sys.stdout):
        self._out = out
        self._live = out.isatty()
        self._shown = False
        self._next = 0.0

    def say(self, text=""):
        """A line that stays."""
        self._clear()
        print(text, file=self._out, flush=True)

    def pass_by(self, text):
        """A line that the next one replaces; on a pipe it stays, but not more than one a second."""
        now = time.monotonic()
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{text[:width]}", end="", file=self._out, flush=True)
            self._shown = True
        elif now >= self._next:
            print(text, file=self._out, flush=True)
            self._next = now + LINE_SECONDS

    def begin(self):
        """Something new begins: what is over within a second needs no line on a pipe."""
        self._next = time.monotonic() + LINE_SECONDS

    def _clear(self):
        if self._shown:
            print("\r\033[K", end="", file=self._out, flush=True)
            self._shown = False


def size(count):
    """Bytes: 1.2 GiB, 412 MiB."""
    if count >= 1 << 30:
        return f"{count / (1 << 30):.1f} GiB"
    return f"{count / (1 << 20):.0f} MiB"


def duration(usec):
    """Microseconds: 830 us, 14.2 ms, 3.1 s."""
    if usec < 1000:
        return f"{usec:.0f} us"
    if usec < 1e6:
        return f"{usec / 1e3:.1f} ms" if usec < 1e5 else f"{usec / 1e3:.0f} ms"
    return f"{usec / 1e6:.1f} s"


def progress(job):
    """A line about a migration that is under way."""
    words = [f"{job['elapsed_usec'] / 1e6:4.1f} s", job["stage"]]
    if job["stage"] == "pre-copy" and job["round"]:
        words[-1] += f", round {job['round']}"
    words.append(f"{size(job['bytes'])} moved")
    if job["rate"]:
        words.append(f"{size(job['rate'])}/s")
    if job["dirty_rate"]:
        words.append(f"the guest writes {job['dirty_rate'] / 1e6:.0f} MB/s")
    if job["downtime_usec"]:
        words.append(f"{size(job['remaining_bytes'])} to come")
    elif job["predicted_downtime_usec"] is not None:
        words.append(f"would stand {duration(job['predicted_downtime_usec'])}")
    return "   " + ", ".join(words)


def table(header, rows):
    """Lines of columns, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells):
        return "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(cells, widths)))

    return [line(header), "  ".join("-" * width for width in widths), *map(line, rows)]
