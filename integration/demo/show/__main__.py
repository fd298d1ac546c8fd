# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line of the demo, and what happens when it is stopped."""

import argparse
import re
import shutil
import signal
import sys

from . import building, display

MIB = 1 << 20


def size_mib(text):
    match = re.fullmatch(r"([1-9][0-9]*)([MG])", text)
    mib = int(match[1]) * (1024 if match[2] == "G" else 1) if match else 0
    if mib < 128:
        raise argparse.ArgumentTypeError(f"{text} is not a size of at least 128M, such as 512M or 2G")
    return mib


def megabytes(text):
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text):
        raise argparse.ArgumentTypeError(f"{text} is not a number of megabytes, such as 80")
    return int(text)


def arguments():
    parser = argparse.ArgumentParser(prog="integration/demo/run", usage="%(prog)s [--size SIZE] [--rate MB] [--keep-logs DIR]")
    parser.add_argument("top", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=size_mib, default=1024)
    parser.add_argument("--rate", type=megabytes, default=80)
    parser.add_argument("--keep-logs", metavar="DIR")
    return parser.parse_args()


def stop(number, _frame):
    """The first signal ends the show; what comes after must not disturb the cleaning up."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def check_memory(size):
    """The guest's memory is there twice, once on each host, and two QEMUs take some more."""
    needed = 2 * size + 512
    with open("/proc/meminfo", encoding="ascii") as info:
        available = next(int(line.split()[1]) // 1024 for line in info if line.startswith("MemAvailable:"))
    room = shutil.disk_usage("/dev/shm").free // MIB
    if available < needed or room < 2 * size:
        return f"a guest of {display.size(size * MIB)} needs {needed} MiB of memory, and {min(available, room)} MiB are free: --size takes less"
    return None


def show(args, screen):
    building.build(args.top, screen.say)
    # What runs the programs of the build asks where that is when it is loaded.
    from . import story

    with story.Story(args.size, args.rate, args.keep_logs, screen) as tale:
        screen.say()
        screen.say(tale.introduction())
        screen.say(f"A guest with {display.size(args.size * MIB)} of memory starts on the left, and writes {args.rate} MB/s.")
        rest = tale.boot()
        moves = []
        for number, (source, target, mode, options) in enumerate(story.MOVES, 1):
            limit = f", may stand {options[1]} ms" if options else ""
            screen.say(f"\n{number}. {source} to {target}, {mode}{limit}")
            moves.append(tale.move(source, target, mode, options))
            job = moves[-1].job
            screen.say(f"   done in {display.duration(job['elapsed_usec'])}, the guest stood {display.duration(job['downtime_usec'] or 0)}")
            if number < len(story.MOVES):
                tale.wait_for_next(source)
        screen.say("\nThe guest checks all of its memory once more.")
        report = tale.check_everything()
    return judge(screen, moves, rest, report)


def judge(screen, moves, rest, report):
    """Prints the table and what the guest says; returns the exit status."""
    rows = []
    for moved in moves:
        job = moved.job
        faults = job["faults"]
        times = f"{display.duration(job['fault_p50_usec'])} / {display.duration(job['fault_p99_usec'])}" if faults else "-"
        rows.append(
            (
                moved.mode,
                display.size(job["bytes"]),
                str(job["round"]),
                display.duration(job["downtime_usec"] or 0),
                str(faults),
                times,
                f"{moved.gap_ms:.0f} ms",
                str(moved.errors),
            )
        )
    screen.say()
    for line in display.table(("mode", "moved", "rounds", "downtime", "faults", "p50 / p99", "longest gap", "errors"), rows):
        screen.say(line)
    screen.say()
    screen.say(f"The guest beats every 20 ms; while nothing moved the longest gap was {rest:.0f} ms.")
    good = report["errors"] == 0 and not report["trouble"] and report["consecutive"]
    if good:
        screen.say("It saw no error, and no beat is missing or came twice.")
        return 0
    screen.say(f"It saw {report['errors']} errors; {report['missing']} beats are missing, {report['repeated']} came twice.")
    for line in report["trouble"]:
        screen.say(f"    {line}")
    return 1


def main():
    args = arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    screen = display.Display()
    reason = check_memory(args.size)
    try:
        if reason is None:
            return show(args, screen)
    except SystemExit:
        screen.say("stopped")
        raise
    except Exception as error:
        screen.say()
        reason = str(error) or type(error).__name__
        if not args.keep_logs:
            reason += " (--keep-logs DIR keeps what was logged)"
    print(f"integration/demo/run: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
