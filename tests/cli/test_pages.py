# SPDX-License-Identifier: LGPL-2.1-or-later
"""Manual pages and --help say the same; completion knows what they know."""

import re
import subprocess

from mfcli.check import contains, equal, true
from mfcli.host import MEMFERRY, MEMFERRYD, SCRIPTED, TOP, Host, run

DOCS = TOP / "docs"


def commands(*group):
    """The words that may follow `memferry`, or `memferry GROUP`."""
    text = run([MEMFERRY, *group, "--help"]).stdout
    return re.findall(r"^  ([a-z]+) +[A-Z]", text.split("Commands:")[1].split("\n\n")[0], re.MULTILINE)


def groups():
    """Commands that consist of commands."""
    return [command for command in commands() if "Commands:" in run([MEMFERRY, command, "--help"]).stdout]


def help_options(words):
    done = run([*words, "--help"])
    equal((done.returncode, done.stderr), (0, ""))
    return set(re.findall(r"(?<!\S)(-[a-z]|--[a-z0-9-]+)(?=[,= ])", options_part(done.stdout)))


def options_part(text):
    return text[text.index("Help Options:"):]


def page_options(page):
    """Options that an entry of the page's OPTIONS is about."""
    text = (DOCS / f"{page}.scd").read_text()
    part = text.split("\n# OPTIONS\n")[1].split("\n# ")[0]
    found = set()
    for line in part.splitlines():
        if line.startswith("*-"):
            found |= set(re.findall(r"\*(-[a-z]|--[a-z0-9-]+)\*", line))
    return found


def test_every_option_is_in_its_page_and_the_other_way_round():
    for command in commands():
        equal(page_options(f"memferry-{command}.1"), help_options([MEMFERRY, command]), command)
    for group in groups():
        for command in commands(group):
            equal(page_options(f"memferry-{group}-{command}.1"), help_options([MEMFERRY, group, command]), f"{group} {command}")
    equal(page_options("memferry.1"), help_options([MEMFERRY]), "memferry")
    equal(page_options("memferryd.8"), help_options([MEMFERRYD]), "memferryd")


def test_every_command_is_in_the_overview():
    text = (DOCS / "memferry.1.scd").read_text()
    found = commands()
    true(len(found) > 8, found)
    for command in found:
        contains(text, f"\n*{command}*\n", f"*memferry-{command}*(1)")
    for group in groups():
        text = (DOCS / f"memferry-{group}.1.scd").read_text()
        for command in commands(group):
            contains(text, f"\n*{command}*\n", f"*memferry-{group}-{command}*(1)")


def test_every_page_is_installed():
    listed = (DOCS / "meson.build").read_text()
    for page in DOCS.glob("*.scd"):
        contains(listed, f"'{page.name[:-4]}'")


def test_configuration_keys_are_in_the_page():
    """All that the configuration may say: what is not there is refused, and that is tested elsewhere."""
    page = (DOCS / "memferry.conf.5.scd").read_text()
    known = re.findall(r'\{ "([a-z]+)", "([a-z-]+)" \}', (TOP / "src/service/mf-service-config.c").read_text())
    true(len(known) >= 4, known)
    for group, key in known:
        contains(page, f"# [{group}]", f"*{key}=*")


def test_json_keys_are_in_the_pages():
    source = (TOP / "src/cli/mf-cli-json.c").read_text()
    region, job = source.split("region_fields[] = {")[1].split("job_fields[] = {")
    for text, page in [(region.split("};")[0], "memferry-list.1"), (job.split("};")[0], "memferry-jobs.1")]:
        keys = re.findall(r'\{ "[A-Za-z0-9]+", "([a-z0-9_]+)"', text)
        true(len(keys) > 8, keys)
        for key in keys:
            contains((DOCS / f"{page}.scd").read_text(), f"*{key}*")


def complete(words, environment):
    """What bash offers for the last of `words`."""
    script = """
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _memferry "$MEMFERRY" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "--norc", "-c", script, "bash", TOP / "integration/bash-completion/memferry", *words],
                          env={**environment, "MEMFERRY": str(MEMFERRY)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, stdin=subprocess.DEVNULL)
    equal((done.returncode, done.stderr), (0, ""))
    return sorted(done.stdout.split())


def test_completion():
    with Host(SCRIPTED) as host:
        host.start()
        for name in ["vm1", "vm2", "game"]:
            host.do("create", name, "--size", "1M")
        host.run("migrate", "vm1", "--to", "tcp://fails")
        here = host.environment()
        nowhere = {**here, "MEMFERRY_SOCKET": "/nonexistent"}
        equal(complete(["memferry", ""], nowhere), sorted(commands()))
        equal(complete(["memferry", "ca"], nowhere), ["cancel"])
        for command in commands():
            equal(complete(["memferry", command, "--"], nowhere),
                  sorted(o for o in help_options([MEMFERRY, command]) if o.startswith("--")))
        for group in groups():
            equal(complete(["memferry", group, ""], nowhere), sorted(commands(group)))
            for command in commands(group):
                equal(complete(["memferry", group, command, "--"], nowhere),
                      sorted(o for o in help_options([MEMFERRY, group, command]) if o.startswith("--")))
        equal(complete(["memferry", "migrate", "--mode", "p"], nowhere), ["postcopy", "precopy"])
        equal(complete(["memferry", "migrate", "--mode", "=", "a"], nowhere), ["auto"])
        equal(complete(["memferry", "migrate", "v"], here), ["vm1", "vm2"])
        equal(complete(["memferry", "migrate", "vm1", ""], here), ["game", "vm1", "vm2"])
        equal(complete(["memferry", "show", ""], here), ["game", "vm1", "vm2"])
        equal(complete(["memferry", "run", "--region", "g"], here), ["game"])
        equal(complete(["memferry", "cancel", ""], here), ["1"])
        equal(complete(["memferry", "--runtime-dir", str(host.runtime), "remove", ""], nowhere), ["game", "vm1", "vm2"])
        equal(complete(["memferry", "remove", "--socket", "=", str(host.socket), ""], nowhere), ["game", "vm1", "vm2"])
        equal(complete(["memferry", "show", ""], nowhere), [])
