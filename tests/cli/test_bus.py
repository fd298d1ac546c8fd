# SPDX-License-Identifier: LGPL-2.1-or-later
"""The D-Bus interfaces: what is served is what is written down, and all of it is explained."""

import re
import subprocess
import xml.etree.ElementTree as ElementTree

from mfcli.check import contains, equal, true
from mfcli.host import SCRIPTED, TOP, Host, run

XML = TOP / "src" / "service" / "org.memferry.xml"


def written():
    return {i.get("name"): i for i in ElementTree.parse(XML).getroot().iter("interface")}


def introspect(host, path):
    done = run(["dbus-send", f"--peer=unix:path={host.socket}", "--print-reply=literal", path,
                "org.freedesktop.DBus.Introspectable.Introspect"])
    equal((done.returncode, done.stderr), (0, ""))
    return ElementTree.fromstring(done.stdout.strip())


def members(interface):
    """Everything about an interface that a client could notice."""
    found = set()
    for member in interface:
        if member.tag in ("method", "signal"):
            arguments = tuple((a.get("name"), a.get("type"), a.get("direction", "out")) for a in member.iter("arg"))
            found.add((member.tag, member.get("name"), arguments))
        elif member.tag == "property":
            found.add((member.tag, member.get("name"), member.get("type"), member.get("access")))
    return found


def test_what_is_served_is_what_is_written_down():
    with Host(SCRIPTED) as host:
        host.start()
        host.do("create", "vm.1-a", "--size", "1M")
        host.run("migrate", "vm.1-a", "--to", "tcp://fails")
        for path, name in [("/org/memferry/manager", "org.memferry.Manager1"),
                           ("/org/memferry/region/vm_2e1_2da", "org.memferry.Region1"),
                           ("/org/memferry/job/1", "org.memferry.Job1")]:
            served = {i.get("name"): i for i in introspect(host, path).iter("interface")}
            true(name in served, f"{path} has {list(served)}")
            equal(members(served[name]), members(written()[name]), name)


def test_object_manager():
    with Host(SCRIPTED) as host:
        host.start()
        host.do("create", "vm1", "--size", "1M")
        done = run(["dbus-send", f"--peer=unix:path={host.socket}", "--print-reply", "/org/memferry",
                    "org.freedesktop.DBus.ObjectManager.GetManagedObjects"])
        contains(done.stdout, "/org/memferry/manager", "/org/memferry/region/vm1", "org.memferry.Region1")


def test_every_client_sees_the_same():
    """A change that one makes is told to all."""
    with Host(SCRIPTED) as host:
        host.start()
        watchers = [host.begin("watch", "--json") for _ in range(3)]
        # They are there when they tell of a region that was there before.
        host.do("create", "vm1", "--size", "1M")
        for watcher in watchers:
            contains(watcher.stdout.readline(), "vm1")
        host.do("create", "vm2", "--size", "1M")
        for watcher in watchers:
            contains(watcher.stdout.readline(), "added", "vm2")
            watcher.kill()
            watcher.communicate()


def test_errors_have_names():
    """A client tells them apart without reading messages."""
    with Host(SCRIPTED) as host:
        host.start()
        done = run(["dbus-send", f"--peer=unix:path={host.socket}", "--print-reply", "/org/memferry/manager",
                    "org.memferry.Manager1.RemoveRegion", "string:nope", "boolean:false"])
        contains(done.stderr, "org.memferry.Error.NotFound", "nope: there is no such region")


def test_every_member_is_explained():
    """The comment before it names it and says something."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    root = ElementTree.fromstring(XML.read_text().replace("<!DOCTYPE", "<!--").replace('introspect.dtd">', "-->"), parser)
    count = 0
    for interface in root.iter("interface"):
        before = None
        for child in interface:
            if child.tag in ("method", "signal", "property"):
                count += 1
                text = before.text if before is not None and callable(before.tag) else ""
                true(re.search(rf"^\s*{child.get('name')}:\s*\S", text), f"{child.get('name')} is not explained")
                for argument in child.iter("arg"):
                    if child.tag == "method" or argument.get("name"):
                        contains(text, f"@{argument.get('name')}:")
            before = child
    true(count > 40, f"only {count} members were looked at")


def test_xml_is_well_formed():
    subprocess.run(["gdbus-codegen", "--header", "--output", "/dev/null", XML], check=True)
