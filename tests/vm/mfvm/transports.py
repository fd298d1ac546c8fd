# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ways in which one libvirt reaches another: qemu+tcp, qemu+tls, qemu+ssh and qemu+unix, with certificates and keys of our own."""

import contextlib
import os
import subprocess

from .sshd import Keys, Sshd

_EXTENSIONS = """basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature,keyEncipherment
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=DNS:a,DNS:b
"""
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Transports:
    """A context manager; make it before the Hosts, give them its `pki`, and open() it when they are there.

    pki          the folder of certificates, for libvirt.Hosts and for who connects
    environment  for services that go through ssh
    """

    def __init__(self, work):
        self._work = work
        self.pki = work.file("pki")
        self._keys = Keys(work.file("ssh"), ("a", "b"))
        self.environment = self._keys.environment
        self._client = work.file("ssh-client")
        self._hosts = None
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        os.makedirs(self.pki)
        self._make_certificates()
        self._keys.make()
        with open(self._client, "w", encoding="ascii") as script:
            script.write(f'#!/bin/sh\nexec ssh -F {self._keys.config} "$@"\n')
        os.chmod(self._client, 0o755)
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _openssl(self, *words):
        subprocess.run(["openssl", *words], cwd=self.pki, check=True, capture_output=True)

    def _make_certificates(self):
        with open(os.path.join(self.pki, "extensions"), "w", encoding="ascii") as file:
            file.write(_EXTENSIONS)
        self._openssl("req", "-x509", *_NEW_KEY, "-days", "2", "-subj", "/CN=authority", "-addext", "keyUsage=critical,keyCertSign",
                      "-keyout", "cakey.pem", "-out", "cacert.pem")
        self._openssl("req", *_NEW_KEY, "-subj", "/CN=host", "-keyout", "clientkey.pem", "-out", "request.pem")
        self._openssl("x509", "-req", "-in", "request.pem", "-CA", "cacert.pem", "-CAkey", "cakey.pem", "-CAcreateserial",
                      "-days", "2", "-extfile", "extensions", "-out", "clientcert.pem")

    def open(self, hosts):
        """Starts an sshd on each host."""
        self._hosts = hosts
        for host in hosts.host.values():
            address = hosts.network.address[host.name]
            self._stack.enter_context(Sshd(self._work, keys=self._keys, prefix=host.prefix, address=address))

    def uri(self, kind, there):
        """Of host `there`'s libvirt."""
        if kind == "tls":
            return f"qemu+tls://{there}/system?pkipath={self.pki}"
        if kind == "ssh":
            return f"qemu+ssh://root@{there}/system?command={self._client}"
        if kind == "unix":
            return f"qemu+unix:///system?socket={self._hosts.host[there].outside('/run/libvirt/libvirt-sock')}"
        return f"qemu+tcp://{there}/system"
