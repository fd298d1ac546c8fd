# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line, the order of things, and the report."""
import argparse
import concurrent.futures
import fnmatch
import os
import signal
import sys
import time
from pathlib import Path

from . import builds, job, suites

SHOWN_LINES = 80


def arguments():
    parser = argparse.ArgumentParser(
        prog="tests/run", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Builds memferry and runs all tests, or those whose names match a PATTERN.",
        epilog="Names are BUILD/TEST (normal/region), a folder of tests/ (cli, fuzz), or style: --list shows them.\n"
               "Builds and logs stay in build-tests/, or in $MEMFERRY_TEST_BUILDS.")
    parser.add_argument("top", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--builds", default="normal,asan,tsan", metavar="LIST", help="normal,asan,tsan when left out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="as many at once")
    parser.add_argument("--matrix", action="store_true", help="also what needs the network, for other Debian systems")
    parser.add_argument("--no-install", action="store_true", help="install no packages")
    parser.add_argument("--list", action="store_true", help="name what there is to run, build what that takes")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="shell patterns: 'normal/*', 'cli'")
    # Options and patterns may come in any order.
    return parser.parse_intermixed_args()


class Report:
    """Prints what happens as it happens, and adds up."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add(self, result):
        out = result.outcome
        self.passed += out.passed
        self.failed += len(out.failed)
        self.skipped += len(out.skipped)
        counts = f"{out.passed} passed"
        counts += f", {len(out.failed)} FAILED" if out.failed else ""
        counts += f", {len(out.skipped)} skipped" if out.skipped else ""
        print(f"{result.job.name:<28} {counts} ({result.seconds:.1f} s)", flush=True)
        for reason in out.skipped:
            print(f"    skipped: {reason}")
        for name in out.failed:
            print(f"    FAILED: {name}")
        if out.failed and result.log:
            self.show(Path(str(result.log) + ".tap"))
            self.show(result.log)

    def show(self, path):
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        if lines:
            print(f"    --- {path}{' (the end of it)' if len(lines) > SHOWN_LINES else ''}")
            for line in lines[-SHOWN_LINES:]:
                print("    | " + line)
            sys.stdout.flush()

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped", flush=True)
        return 1 if self.failed or not self.passed else 0


def make_builds(names, args, root, report):
    made = {}
    for name in names:
        build = builds.Build(name, args.top, root)
        begin = time.monotonic()
        try:
            build.make(args.jobs)
            made[name] = build
            print(f"{'build ' + name:<28} done ({time.monotonic() - begin:.1f} s)", flush=True)
        except builds.BuildFailed:
            report.failed += 1
            print(f"{'build ' + name:<28} FAILED")
            report.show(build.log)
    return made


def wanted(name, patterns):
    return not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)


def wanted_folders(args):
    """Pairs of a tests/NAME/run and the build that it is to look at."""
    for run in suites.folders(args.top):
        words = suites.header_of(run)
        if not args.patterns and ("manual" in words or ("matrix" in words and not args.matrix)):
            continue
        names = suites.builds_of(run)
        for name in names:
            # Of several builds those that are asked for; its only one in any case.
            if len(names) == 1 or name in args.builds.split(","):
                if wanted(suites.name_of(run, name), args.patterns) or (args.patterns and run.parent.name in args.patterns):
                    yield run, name


def builds_needed(args, folders):
    """The builds whose tests, or whose programs, a pattern asks for."""
    def has_tests(name):
        return not args.patterns or any(p.split("/")[0] == name or "*" in p.split("/")[0] for p in args.patterns)

    needed = [name for name in args.builds.split(",") if has_tests(name)]
    return needed + sorted({name for _, name in folders} - set(needed))


def collect(args, made, folders, logs):
    jobs = [suites.style(args.top)]
    for name in args.builds.split(","):
        if name in made:
            jobs += suites.of_build(made[name])
    jobs = [j for j in jobs if wanted(j.name, args.patterns)]
    jobs += [suites.of_folder(run, made[name], logs) for run, name in folders if name in made]
    return jobs


def run_all(jobs, args, logs, report):
    # Long ones first, so that none of them is left over when all others are done.
    together = sorted((j for j in jobs if not j.alone), key=lambda j: -j.timeout)
    with concurrent.futures.ThreadPoolExecutor(max(1, args.jobs)) as pool:
        for done in concurrent.futures.as_completed([pool.submit(job.run, j, logs) for j in together]):
            report.add(done.result())
    for one in jobs:
        if one.alone:
            report.add(job.run(one, logs))


def main():
    # A shell starts what is in the background with ^C ignored, and so would be all tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    args = arguments()
    root = Path(os.environ.get("MEMFERRY_TEST_BUILDS") or args.top / "build-tests").absolute()
    logs = root / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    unknown = [n for n in args.builds.split(",") if n not in builds.BUILDS]
    if unknown:
        sys.exit(f"tests/run: no build is called {unknown[0]}: there are {', '.join(builds.BUILDS)}")
    report = Report()
    folders = list(wanted_folders(args))
    made = make_builds(builds_needed(args, folders), args, root, report)
    jobs = collect(args, made, folders, logs)
    if args.list:
        print("\n".join(j.name for j in jobs))
        return 0
    if not jobs and not report.failed:
        sys.exit("tests/run: nothing matches: --list names what there is")
    run_all(jobs, args, logs, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
