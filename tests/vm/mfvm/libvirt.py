# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts on one machine with a libvirtd each. Needs root.

A host is a network namespace (netns.HostPair), a mount namespace and a name. It shares the machine's file system, but what
libvirt and memferry keep is its own: their folders in /etc, /run, /var and /dev/shm are, so that paths are the same on both
hosts, as between real ones. What the machine has there itself is neither seen nor touched.

Hosts    the two, and what has to be there for both
Host     one of them: its libvirtd, virsh, a memferryd
"""

import contextlib
import os
import re
import shutil
import subprocess

from . import netns, service
from .deadline import wait_until
from .qemu import _die_with_parent

# Where libvirt and memferry keep things, beside /run and /dev/shm.
_OWN_FOLDERS = (
    "/etc/libvirt",
    "/var/cache/libvirt",
    "/var/lib/libvirt",
    "/var/log/libvirt",
)
IMAGES = "/var/lib/libvirt/images"
# Where memferry's command and preload library are on a host: QEMU's user has to reach them, wherever they were built.
_INSTALLED = "/run/installed"

_LIBVIRTD_CONF = """
listen_tcp = 1
listen_addr = "0.0.0.0"
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""
_LIBVIRTD_TLS = """
listen_tls = 1
ca_file = "{pki}/cacert.pem"
cert_file = "{pki}/clientcert.pem"
key_file = "{pki}/clientkey.pem"
"""
# The machine's cgroups are not a host's own, and namespaces have no devices of their own to give away.
_QEMU_CONF = """
cgroup_controllers = []
"""
_PLAIN = """
stdio_handler = "file"
security_driver = "none"
user = "root"
group = "root"
remember_owner = 0
namespaces = []
seccomp_sandbox = 0
"""
# QEMU's settings: "plain" has root's rights and no walls; "confined" is what Debian's package does by itself: an
# unprivileged user, seccomp, a mount namespace, its output through virtlogd.
QEMU_CONF = {"plain": _QEMU_CONF + _PLAIN, "confined": _QEMU_CONF}

_SETUP = """
set -eu
mount --make-rprivate /
for folder in {folders}; do mkdir -p $folder; mount --bind {own}$folder $folder; done
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind {own}/etc/hosts /etc/hosts
hostname {name}
echo ready
exec sleep infinity
"""


def _kvm_group():
    """QEMU's group is that of /dev/kvm, as on any host; where a machine has another one, libvirt and QEMU don't agree on whether it can be opened, and
    libvirt looks anew at what QEMU can do whenever a domain is defined, which takes seconds."""
    if not os.path.exists("/dev/kvm"):
        return ""
    return f'group = "+{os.stat("/dev/kvm").st_gid}"\n'


def version():
    """libvirt's, as (11, 3, 0)."""
    said = subprocess.run(["libvirtd", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, re.search(r"(\d+)\.(\d+)\.(\d+)", said).groups()))


def waits_for_acknowledgement():
    """Whether it has no guest stop before the target has acknowledged the head of its state."""
    return version() >= (11, 3)


class Host:
    """One host; `Hosts` makes it. A context manager: the namespaces; libvirtd runs when it is asked to.

    name       "a" or "b", which is also its host name
    prefix     words to put before a command so that it runs here
    command    memferry's, there
    libvirtd   its process; None before start()
    """

    def __init__(self, work, name, network, conf, pki):
        self.name = name
        self.uri = f"qemu+tcp://{name}/system"
        self.prefix = []
        self.command = f"{_INSTALLED}/cli/memferry"
        self.libvirtd = None
        self._virtlogd = None
        self._holder = None
        self._work = work
        self._network = network
        self._conf = conf
        self._pki = pki
        self._own = work.file(f"host-{name}")
        # Hooks find the command by libvirtd's.
        self._path = os.pathsep.join((f"{_INSTALLED}/cli", os.environ.get("PATH", os.defpath)))

    def __enter__(self):
        self._make_folders()
        script = _SETUP.format(folders=" ".join(_OWN_FOLDERS), own=self._own, name=self.name)
        self._holder = subprocess.Popen(
            [*self._network.prefix[self.name], "unshare", "--mount", "--uts", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=_die_with_parent,
        )
        if self._holder.stdout.readline() != "ready\n":
            raise RuntimeError(f"the namespaces of host {self.name} could not be made")
        pid = str(self._holder.pid)
        self.prefix = ["nsenter", "-t", pid, "--net", "--mount", "--uts", "--"]
        self._install()
        return self

    def __exit__(self, *_):
        self.stop_libvirtd()
        if self._virtlogd:
            self._virtlogd.kill()
            self._virtlogd.wait()
        self._keep_logs()
        self._holder.kill()
        self._holder.wait()
        self._holder.stdout.close()

    def _make_folders(self):
        for folder in _OWN_FOLDERS:
            os.makedirs(self._own + folder)
        self._write("/etc/hosts", "127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in self._network.address.items()))
        # Told apart by it: libvirt refuses to migrate a domain to the host that it is on.
        uuid = f"a0a0a0a0-0000-4000-8000-00000000000{self.name}"
        tls = _LIBVIRTD_TLS.format(pki=self._pki) if self._pki else "listen_tls = 0\n"
        self._write("/etc/libvirt/libvirtd.conf", f'{_LIBVIRTD_CONF}{tls}host_uuid = "{uuid}"\n')
        more = _kvm_group() if self._conf == "confined" else ""
        self._write("/etc/libvirt/qemu.conf", QEMU_CONF[self._conf] + more)
        os.makedirs(self._own + IMAGES, mode=0o711)

    def _install(self):
        """As in the build folder: the command looks for the library there."""
        for folder, file in (("cli", "memferry"), ("cli", "memferry-libvirt"), ("preload", "libmemferry-preload.so")):
            os.makedirs(self.outside(f"{_INSTALLED}/{folder}"), exist_ok=True)
            built = os.path.join(service.BUILD, "src", folder, file)
            if os.path.exists(built):
                shutil.copy(built, self.outside(f"{_INSTALLED}/{folder}"))
        hook = os.path.join(service.BUILD, "integration", "libvirt", "memferry")
        if os.path.exists(hook):
            os.makedirs(self.outside("/etc/libvirt/hooks/qemu.d"))
            os.chmod(shutil.copy(hook, self.outside("/etc/libvirt/hooks/qemu.d")), 0o755)

    def _write(self, path, text):
        with open(self._own + path, "w", encoding="ascii") as file:
            file.write(text)

    def _keep_logs(self):
        """Where the Workspace's are kept."""
        for folder in ("/var/log/libvirt", "/var/log/libvirt/qemu"):
            if os.path.isdir(self._own + folder):
                for entry in os.scandir(self._own + folder):
                    if entry.is_file():
                        shutil.copy(entry.path, self._work.file(f"{self.name}-{entry.name}"))

    def outside(self, path):
        """The name by which the test reaches the file that is called `path` on this host."""
        return f"/proc/{self._holder.pid}/root{path}"

    # Programs.

    def start_program(self, *command, log=None, environment=None):
        """Starts it here and returns the Popen; it is killed with the test."""
        with open(self._work.file(log) if log else os.devnull, "ab") as output:
            return subprocess.Popen(
                [*self.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PATH": self._path, **(environment or {})},
                preexec_fn=_die_with_parent,
            )

    def start_libvirtd(self):
        """Starts it (again) and waits until it answers."""
        if self._conf == "confined" and not self._virtlogd:
            self._virtlogd = self.start_program("virtlogd", log=f"virtlogd-{self.name}.log")
            wait_until(lambda: os.path.exists(self.outside("/run/libvirt/virtlogd-sock")), 20, "virtlogd")
        self.libvirtd = self.start_program("libvirtd", "--listen", log=f"libvirtd-{self.name}.out")

        def answers():
            if self.libvirtd.poll() is not None:
                raise RuntimeError(f"libvirtd on host {self.name} ended with {self.libvirtd.returncode}: {self.log()[-500:]}")
            return self.try_virsh("uri", seconds=60).returncode == 0

        wait_until(answers, 60, f"answer from libvirtd on host {self.name}", interval=0.1)

    def stop_libvirtd(self):
        """Ends it as an administrator does; the domains run on."""
        if self.libvirtd and self.libvirtd.poll() is None:
            self.libvirtd.terminate()
            try:
                self.libvirtd.wait(20)
            except subprocess.TimeoutExpired:
                self.libvirtd.kill()
                self.libvirtd.wait()

    def kill_libvirtd(self):
        """SIGKILL: it has no chance to clean up."""
        self.libvirtd.kill()
        self.libvirtd.wait()

    def log(self):
        try:
            with open(self.outside("/var/log/libvirt/libvirtd.log"), encoding="utf-8", errors="replace") as log:
                return log.read()
        except FileNotFoundError:
            return ""

    def try_virsh(self, *words, seconds=120, text=None):
        """Runs `virsh WORD...` and returns what subprocess.run() does; `text` is its input."""
        given = {"input": text} if text is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(
            [*self.prefix, "virsh", "--quiet", "--connect", "qemu:///system", *words],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            **given,
        )

    def virsh(self, *words, seconds=120, text=None):
        """Runs it and returns what it prints; RuntimeError with virsh's own line when it fails."""
        done = self.try_virsh(*words, seconds=seconds, text=text)
        if done.returncode != 0:
            raise RuntimeError(f"virsh {' '.join(words)} on host {self.name}: {done.stderr.strip()}")
        return done.stdout.strip()

    def try_memferry(self, *words, seconds=120):
        """Runs `memferry WORD...` and returns what subprocess.run() does."""
        return subprocess.run(
            [*self.prefix, self.command, *words],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def start_memferry(self, *words):
        """Starts `memferry WORD...`; its output is a pipe. move.Move follows it."""
        return subprocess.Popen(
            [*self.prefix, self.command, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_die_with_parent,
        )

    def memferry(self, *words, seconds=120):
        """Runs it and returns what it prints; RuntimeError with its own line when it fails."""
        done = self.try_memferry(*words, seconds=seconds)
        if done.returncode != 0:
            raise RuntimeError(f"{done.stderr.strip()} (host {self.name})")
        return done.stdout

    # Domains.

    def define(self, xml):
        self.virsh("define", "/dev/stdin", text=xml)

    def state(self, name):
        """As virsh says it: "running", "paused", "shut off"; "" when there is no such domain."""
        done = self.try_virsh("domstate", name)
        return done.stdout.strip() if done.returncode == 0 else ""

    def wait_state(self, name, state, seconds=30):
        wait_until(lambda: self.state(name) == state, seconds, f"{name} {state} on host {self.name}", interval=0.05)

    def pid(self, name):
        """Of the domain's QEMU; 0: it does not run."""
        try:
            with open(self.outside(f"/run/libvirt/qemu/{name}.pid"), encoding="ascii") as file:
                return int(file.read())
        except (FileNotFoundError, ValueError):
            return 0

    def add_image(self, path, name=None):
        """Copies a file to where QEMU may read it on this host, and returns its path there: libvirt gives what a domain uses to
        QEMU's user, which must not happen to what others use too."""
        there = f"{IMAGES}/{name or os.path.basename(path)}"
        shutil.copyfile(path, self._own + there)
        os.chmod(self._own + there, 0o644)
        return there


class Service(service.Service):
    """A memferryd on a Host, in its usual places; it listens for the other host's at `peer`, on TCP."""

    def __init__(self, work, host, **options):
        self._host = host
        super().__init__(work, host.name, prefix=host.prefix, store="/dev/shm/memferry", **options)
        self.runtime = "/run/memferry"

    def __enter__(self):
        self.start()
        return self

    def region_path(self, region):
        return self._host.outside(super().region_path(region))

    def regions(self):
        """The names of its regions."""
        return self.call("list", "--quiet").stdout.split()


class Hosts:
    """Hosts "a" and "b". A context manager: libvirtd runs on both inside of it; everything that was started on them, domains
    too, ends with it.

    work      the Workspace
    conf      of QEMU: "plain" or "confined"
    pki       a folder of certificates (transports.Transports), so that libvirtd listens for qemu+tls, too; None
    network   the HostPair
    host      the Host of each name
    """

    def __init__(self, work, conf="plain", pki=None):
        self.network = netns.HostPair()
        self.host = {name: Host(work, name, self.network, conf, pki) for name in ("a", "b")}
        self._work = work
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        try:
            # What QEMU has to reach lies in the Workspace, which nobody else could look into.
            os.chmod(self._work.path, 0o755)
            self._stack.enter_context(self.network)
            for host in self.host.values():
                self._stack.enter_context(host)
                host.start_libvirtd()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_):
        self._stack.close()

    def start_services(self, **options):
        """A memferryd on each, with service.Service's options; returns them by host. They end with the hosts."""
        return {
            name: self._stack.enter_context(Service(self._work, host, listen=[f"tcp://{self.network.address[name]}"], **options))
            for name, host in self.host.items()
        }
