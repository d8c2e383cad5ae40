"""The programs that are measured: how each is served at one end of the line and started at the other.

All run as they are installed, with their own defaults, except that rclone does not start `md5sum` on the server.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.wan.network import ADDRESSES
from tests.services import find_program, make_key

_HERE, _THERE = ADDRESSES["a"], ADDRESSES["b"]
RSYNC_PORT, SSH_PORT = 8730, 2222
BASE = "rsync daemon"
"""What all others are compared with."""

OURS = "DTS"
"""How the names of ours begin."""

TUNED = "DTS, self-tuned"
STREAMS = (1, 4, 8, 16)
ABSENT = {"bbcp": "Debian has no package of it, and this bench builds no program of others"}

_RSYNCD = """\
address = {host}
port = {port}
use chroot = no
reverse lookup = no
[landing]
path = {landing}
read only = no
uid = {user}
gid = {user}
"""

_SSHD = """\
ListenAddress {host}
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
UsePAM no
UseDNS no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """Folders of a run: configurations and keys; where files land."""

    folder: Path
    landing: Path


@dataclass(frozen=True, slots=True)
class Tool:
    """A program: the server's command; the port that shows that it listens (0: it says its own); the client's command.

    The client is given the file, and what the server said. `ready`: it says when it has started and waits for the word.
    """

    name: str
    serve: Callable[[Setting], Sequence[str]]
    port: int
    send: Callable[[Setting, Path, Sequence[str]], Sequence[str]]
    ready: bool = False


def prepare(folder: Path) -> Setting:
    """Write keys and configurations into a folder."""
    setting = Setting(folder, folder / "landing")
    setting.landing.mkdir()
    for name in ("host_key", "user_key"):
        make_key(folder / name)
    host_key = (folder / "host_key.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[{_THERE}]:{SSH_PORT} {host_key[0]} {host_key[1]}\n")
    (folder / "sshd_config").write_text(_SSHD.format(host=_THERE, port=SSH_PORT, folder=folder))
    rsyncd = _RSYNCD.format(host=_THERE, port=RSYNC_PORT, landing=setting.landing, user=getpass.getuser())
    (folder / "rsyncd.conf").write_text(rsyncd)
    if os.geteuid() == 0:  # where Debian's sshd drops its privileges
        Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)
    return setting


def _rsyncd(setting: Setting) -> Sequence[str]:
    return [find_program("rsync"), "--daemon", "--no-detach", f"--config={setting.folder / 'rsyncd.conf'}"]


def _sshd(setting: Setting) -> Sequence[str]:
    return [find_program("sshd"), "-D", "-e", "-f", str(setting.folder / "sshd_config")]


def _ssh_options(setting: Setting) -> list[str]:
    options = ("BatchMode=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={setting.folder / 'known_hosts'}")
    return ["-F", "none", "-i", str(setting.folder / "user_key"), *(word for one in options for word in ("-o", one))]


def _rsync(_setting: Setting, file: Path, _said: Sequence[str]) -> Sequence[str]:
    return ["rsync", "-a", str(file), f"rsync://{_THERE}:{RSYNC_PORT}/landing/"]


def _rsync_ssh(setting: Setting, file: Path, _said: Sequence[str]) -> Sequence[str]:
    shell = " ".join(["ssh", "-p", str(SSH_PORT), *_ssh_options(setting)])
    return ["rsync", "-a", "-e", shell, str(file), f"{_THERE}:{setting.landing}/"]


def _scp(setting: Setting, file: Path, _said: Sequence[str]) -> Sequence[str]:
    return ["scp", "-q", "-P", str(SSH_PORT), *_ssh_options(setting), str(file), f"{_THERE}:{setting.landing}/"]


def _rclone(setting: Setting, file: Path, _said: Sequence[str]) -> Sequence[str]:
    where = f"host={_THERE},port={SSH_PORT},user={getpass.getuser()},key_file={setting.folder / 'user_key'}"
    target = f":sftp,{where},shell_type=none:{setting.landing}"
    return ["rclone", "copy", "--config", os.devnull, str(file), target]


def _receive(setting: Setting) -> Sequence[str]:
    return [sys.executable, "-m", "benchmarks.programs.wan_receive", _THERE, str(setting.landing)]


def _dts(name: str, streams: int) -> Tool:
    def send(_setting: Setting, file: Path, said: Sequence[str]) -> Sequence[str]:
        return [sys.executable, "-m", "benchmarks.programs.wan_send", _THERE, *said, str(streams), str(file)]

    return Tool(name, _receive, 0, send, ready=True)


TOOLS: Sequence[Tool] = (
    Tool(BASE, _rsyncd, RSYNC_PORT, _rsync),
    Tool("rsync over ssh", _sshd, SSH_PORT, _rsync_ssh),
    Tool("scp", _sshd, SSH_PORT, _scp),
    Tool("rclone, sftp", _sshd, SSH_PORT, _rclone),
    *(_dts(f"{OURS}, {streams} stream{'s' if streams > 1 else ''}", streams) for streams in STREAMS),
    _dts(TUNED, 0),
)
"""In the order of the report; the last one finds the number of streams itself."""
