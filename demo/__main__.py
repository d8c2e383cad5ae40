"""Walk through the main job on a small site: submit, watch, look up, search, account; then play a camera."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from demo import camera, night, server

PROGRAMS = Path(sys.executable).parent
REMOTE = "remote"


def main() -> int:
    """Make the site, run the walk, and leave the site for the user to go on with."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-site").absolute()
    if folder.exists():
        hint = "remove it, or name another: script/demo FOLDER"
        print(f"error: {folder} exists already\nhint: {hint}", file=sys.stderr)
        return 2
    begun = time.monotonic()
    title("A site: one database, and storage elements named local, archive and remote")
    run(folder.parent, "dts", "init", str(folder))
    pid = add_remote(folder)
    address = camera.configure(folder / "etc" / "dts.ini")
    agents: subprocess.Popen[bytes] | None = None
    try:
        lfns = take_images(folder)
        agents = start_agents(folder)
        walk(folder, lfns)
        title("The image builder: a camera of two CCDs sends its pixels")
        camera.walk(folder, PROGRAMS, address, run)
    finally:
        if agents is not None:
            agents.send_signal(signal.SIGTERM)
            agents.wait(timeout=60)
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
    farewell(folder, pid is not None, time.monotonic() - begun)
    return 0


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def run(folder: Path, *command: str) -> None:
    """Show a command as the user would type it, and run it in a folder."""
    print("$", *(f'"{word}"' if " " in word else word for word in command), flush=True)
    subprocess.run([str(PROGRAMS / command[0]), *command[1:]], cwd=folder, check=True)


def add_remote(folder: Path) -> int | None:
    """Add the third storage element: a real sshd where there is one, else a folder. Return the sshd's process id."""
    config = folder / "etc" / "dts.ini"
    if server.program() or server.install():
        section = server.prepare(folder / REMOTE, REMOTE)
        pid = server.start(folder / REMOTE)
        print(f"'{REMOTE}' is a real sshd on loopback (process {pid})")
    else:
        (folder / REMOTE).mkdir()
        section, pid = f"\n[se.{REMOTE}]\ntype = file\nroot = {REMOTE}\n", None
        print(f"this machine has no sshd: '{REMOTE}' is a folder")
    with config.open("a") as stream:
        stream.write(section)
    run(folder, "dts", "se", "check")
    return pid


def take_images(folder: Path) -> list[str]:
    """Put the night's images on `local` and write transfer.xml; return the LFNs."""
    title("A night of images")
    local = folder / "local"
    paths = [*night.make_night(local / night.NIGHT), *night.shipped(local / "shipped")]
    print(f"{len(paths)} images, {sum(path.stat().st_size for path in paths) / 1e6:.0f} MB, in {local}")
    names = [str(path.relative_to(local)) for path in paths]
    lines = [f"    <file lfn={quoteattr('/demo/raw/' + name)} pfn={quoteattr(name)}/>" for name in names]
    text = "\n".join(
        [
            f'<request name="demo-{night.NIGHT}" owner="demo" priority="5">',
            f'  <operation type="transfer" source="local" target="archive {REMOTE}" checksum="xxh3-128">',
            *lines,
            "  </operation>",
            f'  <operation type="verify" target="{REMOTE}">',
            *(f"    <file lfn={quoteattr('/demo/raw/' + name)}/>" for name in names),
            "  </operation>",
            "</request>",
        ]
    )
    (folder / "transfer.xml").write_text(text + "\n")
    print("\n".join(["transfer.xml:", *text.splitlines()[:4], "    …", "</request>"]))
    return [f"/demo/raw/{name}" for name in names]


def start_agents(folder: Path) -> subprocess.Popen[bytes]:
    """Start all agents in one process, its log in var/log."""
    title("The agents, all in one process")
    print("$ dts run &", flush=True)
    with (folder / "var" / "log" / "demo.log").open("wb") as log:
        return subprocess.Popen([str(PROGRAMS / "dts"), "run"], cwd=folder, stdout=log, stderr=log)


def walk(folder: Path, lfns: Sequence[str]) -> None:
    """Do the main job and look at what came of it."""
    request = f"demo-{night.NIGHT}"
    title("The main job: a request file goes in")
    run(folder, "dts-request", "submit", "transfer.xml")
    run(folder, "dts-request", "watch", request)
    run(folder, "dts-request", "show", request)
    title("The catalog: find a file by its logical name, or by its header")
    run(folder, "dts-catalog", "replicas", lfns[8])
    run(folder, "dts-catalog", "find", f"filter='r' and night='{night.NIGHT}'")
    title("The accounting: what moved, how fast, and what failed")
    run(folder, "dts-accounting", "report", "--since", "1h", "--by", "channel")
    run(folder, "dts-accounting", "plot", "--since", "1h", "-o", "throughput.png")
    run(folder, "dts-accounting", "sql", "volume-by-day", "--run")


def farewell(folder: Path, with_server: bool, seconds: float) -> None:
    """Say what was done and what to try next."""
    title(f"Done in {seconds:.0f} s. The site stays in {folder}; go on with it:")
    shown = os.path.relpath(folder)
    print(f"  cd {shown} && . ../.venv/bin/activate" if folder.parent == Path.cwd() else f"  cd {shown}")
    if with_server:
        print(f"  {REMOTE}/server/start                      # the sshd of '{REMOTE}', which was stopped with the demo")
    print("  dts run                                  # the agents; Ctrl-C drains them")
    print("  dts doctor                               # is all well?")
    print(f"  dts-request explain demo-{night.NIGHT}      # why does something wait?")
    print("  dts-catalog ls /demo/raw")
    print("  dts-catalog find \"type='science' and exposure_time > 60\"")
    print("  cp transfer.xml var/spool/ToDo/          # the other way to submit: the spool folder")


if __name__ == "__main__":
    sys.exit(main())
