"""The step drill on the other side: the SFTP server of the target meets each fault at each of its own system calls.

Its sftp-server runs under strace from its first instruction, so that `when=N` is the N-th such call of a connection,
from the first answer to the rename.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from dtsd.drills.launcher import Launcher
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite
from tests import services
from tests.services import SshServer
from tests.torture.healing import finish
from tests.torture.steps import CALLS, FAULTS, SETTINGS, data_writes, steps_of

_SUBSYSTEM = """\
#!/bin/sh
# One file of traces for each process; what is injected stands in a file that the drill writes.
exec strace -o {folder}/traces/$$ -e trace={calls} $(cat {folder}/injection) {program}
"""


class ServerSteps:
    """One transfer after another, the server struck at another step each time."""

    def __init__(self, folder: Path, seed: int, *, program: Sequence[str] = ()) -> None:
        """Prepare."""
        self.folder = folder
        self.seed = seed
        self.failures: list[str] = []
        self.tried = 0
        self.struck = 0
        self._launcher = Launcher(program)
        self._server = services.start_sshd()
        self._traces = self._server.folder / "traces"

    def run(self, faults: Sequence[str] = FAULTS, *, stride: int = 1, data_only: bool = False) -> Result:
        """Strike each step (each `stride`-th of the many calls of one kind) with each fault."""
        begun = time.monotonic()
        try:
            self._trace_server(self._server)
            with self._launcher:
                trace = self._trace()
                chosen = data_writes(trace)[-1:] if data_only else steps_of(trace, stride, self.seed)
                for fault in faults:
                    for call, when in chosen:
                        self._strike(call, when, fault)
        finally:
            self._server.stop()
            shutil.rmtree(self._server.folder, ignore_errors=True)
        facts = {"steps of one transfer": len(steps_of(trace)), "struck": self.struck, "seed": self.seed}
        name = "SIGKILL, EIO, ENOSPC at each step (of the server)"
        return Result(name, "strikes", self.tried, tuple(self.failures), time.monotonic() - begun, facts)

    def _trace_server(self, server: SshServer) -> None:
        program = services.find_program("sftp-server", "/usr/lib/openssh", "/usr/libexec/openssh", "/usr/lib/ssh")
        subsystem = server.folder / "subsystem"
        subsystem.write_text(_SUBSYSTEM.format(folder=server.folder, calls=",".join(CALLS), program=program))
        subsystem.chmod(0o755)
        self._traces.mkdir()
        (server.folder / "injection").touch()
        settings = server.folder / "sshd_config"
        settings.write_text(settings.read_text().replace("internal-sftp", str(subsystem)))
        server.stop()
        server.start()

    def _trace(self) -> str:
        """Return what the process of the server calls that does most in one transfer."""
        site = self._transfer("count", "")
        self.failures += [f"undisturbed: {finding}" for finding in site.check()]
        return max((trace.read_text(errors="replace") for trace in self._traces.iterdir()), key=len)

    def _strike(self, call: str, when: int, fault: str) -> None:
        """Let one call fail or kill, look what that left, and let a clean agent finish on a sound server."""
        self.tried += 1
        what = f"{fault} at {call} {when} of the server"
        site = self._transfer(f"{self.tried:04d}", f"-e inject={call}:{fault}:when={when}")
        traces = [trace.read_text(errors="replace") for trace in self._traces.iterdir()]
        self.struck += any("INJECTED" in text or "killed by SIGKILL" in text for text in traces)
        self.failures += [f"{what}: {finding}" for finding in site.check(ended=False)]
        self.failures += [f"{what}: {finding}" for finding in finish(site, self._launcher)]
        if not self.failures:
            shutil.rmtree(site.folder)
            shutil.rmtree(site.roots["archive"])

    def _transfer(self, name: str, injection: str) -> DrillSite:
        """Let an agent work once while something is injected."""
        for trace in self._traces.iterdir():
            trace.unlink()
        server = self._server.with_root(self._server.root / name)
        options = {
            "type": "sftp", "host": server.host, "port": str(server.port), "user": server.user,
            "root": str(server.root), "key_file": str(server.key), "known_hosts": str(server.known_hosts),
            "idle_timeout": "3", "connect_timeout": "5",
        }  # fmt: skip
        (self.folder / name).mkdir()
        site = DrillSite(self.folder / name, "", dict(SETTINGS), {"archive": options}, {"archive": server.root})
        site.submit(site.make(["a/f.fits"], random.Random(self.seed), (300_000, 300_000)))
        (server.folder / "injection").write_text(injection)
        log = site.folder / "agent.log"
        agent = self._launcher.start("dtsd.drills.processes:once", str(site.config), "transfer", log=log)
        if not agent.wait(60):
            self.failures.append(f"{injection}: the agent did not end: {site.log()[-1500:]}")
            agent.kill()
        (server.folder / "injection").write_text("")
        return site
