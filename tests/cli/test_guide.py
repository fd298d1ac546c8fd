# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/operators-guide.md: what it quotes is what the programs say."""

import re

from mfcli.check import equal, true
from mfcli.host import TOP

# What stands for something else in a quotation: names in capitals, numbers as N, and what is left out.
PLACE = re.compile(r"\.\.\.|\b[A-Z](?![\w.-])|\b(?:PATH|FILE|PEER|DOMAIN|URI)\b|/run/memferry\S*|/dev/shm\b")
# Of others: the system's own texts, systemd's, the dynamic linker's.
STRANGERS = ["Address already in use", "Cannot assign requested address", "Connection refused", "No route to host", "status=216/GROUP",
             "timed out", "ERROR: ld.so", "group memferry"]
LITERALS = re.compile(r'"(?:[^"\\\n]|\\.)*"(?:\s*(?:[A-Z][A-Z0-9_]*\s*)?"(?:[^"\\\n]|\\.)*")*')
PART = re.compile(r'"((?:[^"\\\n]|\\.)*)"|([A-Z][A-Z0-9_]*)')


def spoken():
    """Everything that the C sources have in quotation marks; where a value goes in there is a zero byte."""
    texts = []
    for source in sorted((TOP / "src").rglob("*.c")):
        text = source.read_text()
        names = dict(re.findall(r'^#define (\w+)\s+"([^"\n]*)"$', text, re.M))
        for match in LITERALS.finditer(text):
            joined = "".join(part if part or not name else names.get(name, "\0") for part, name in PART.findall(match[0]))
            texts.append(re.sub(r"%[-#0-9.*l]*[a-zA-Z]|%$", "\0", joined).replace('\\"', '"'))
    return "\n".join(texts)


def quotations():
    """The first cells of the tables of messages."""
    guide = (TOP / "docs" / "operators-guide.md").read_text()
    for row in re.findall(r"^\| (`.*?) \|", guide[guide.index("## When something goes wrong"):], re.M):
        yield from re.findall(r"`([^`]+)`", row)


def test_messages_are_the_programs_own():
    said = spoken()
    unknown = []
    quoted = list(quotations())
    true(len(quoted) > 40, f"only {len(quoted)} quotations")
    for text in quoted:
        if any(stranger in text for stranger in STRANGERS):
            continue
        for part in PLACE.split(text.removeprefix("memferry: ")):
            part = part.strip()
            if len(part) > 5 and part not in said:
                unknown.append(f"{part!r} of {text!r}")
    equal(unknown, [])


def test_commands_are_there():
    """Those of memferry that the guide tells one to give."""
    guide = (TOP / "docs" / "operators-guide.md").read_text()
    known = {path.name.split(".")[0] for path in (TOP / "docs").glob("memferry-*.1.scd")}
    given = re.findall(r"`memferry ([^`]+)`", guide) + re.findall(r"^ {4}(?:\$ )?(?:sudo )?memferry (.+)$", guide, re.M)
    true(len(given) > 10, f"only {len(given)} commands")
    for words in given:
        first, *rest = words.split()
        if first.endswith(":"):
            continue  # a message
        name = f"{first}-{rest[0]}" if first == "domain" and rest else first
        true(f"memferry-{name}" in known or first.startswith("-"), f"memferry {words}")
