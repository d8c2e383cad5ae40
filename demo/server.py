"""A real OpenSSH server on loopback for the demonstration, with keys of its own, in the site's folder."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd.pid
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""

_SECTION = """
[se.{name}]
# A real sshd on loopback; start it with: {name}/server/start
type = sftp
host = 127.0.0.1
port = {port}
user = {user}
root = {root}
key_file = {folder}/user_key
known_hosts = {folder}/known_hosts
"""


def program() -> str | None:
    """Return the path of sshd; None where the machine has none."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def install() -> str | None:
    """Install sshd where root may; return its path, or None where it cannot be had."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "openssh-server"]):
            subprocess.run(command, check=False, capture_output=True)
    return program()


def prepare(folder: Path, name: str) -> str:
    """Make keys, configuration and a start script below `folder`/server; return the section for dts.ini."""
    place = folder / "server"
    place.mkdir(parents=True, mode=0o700)
    (folder / "files").mkdir()
    for key in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "dts-demo", "-f", str(place / key)]
        subprocess.run(command, check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shutil.copy(place / "user_key.pub", place / "authorized_keys")
    kind, key_text = (place / "host_key.pub").read_text().split()[:2]
    (place / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key_text}\n")
    (place / "sshd_config").write_text(_CONFIG.format(port=port, folder=place))
    script = place / "start"
    script.write_text(f'#!/bin/sh\nmkdir -p /run/sshd 2>/dev/null\nexec "{program()}" -f "{place}/sshd_config"\n')
    script.chmod(0o755)
    return _SECTION.format(name=name, port=port, user=getpass.getuser(), root=folder / "files", folder=place)


def start(folder: Path) -> int:
    """Start the server and return its process id, once it answers."""
    place = folder / "server"
    subprocess.run([str(place / "start")], check=True)
    deadline = time.monotonic() + 10
    while not (place / "sshd.pid").exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"error: sshd did not start; see {place}/sshd_config")
        time.sleep(0.05)
    return int((place / "sshd.pid").read_text())
