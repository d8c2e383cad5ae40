"""The program: starts only when it is safe, ends and begins anew without losing a call, takes sockets from others."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtscore.errors import ConfigurationError, CredentialsError, DtsError, StreamLostError
from dtsnet.credentials import sign
from dtsnet.rpc import Remote
from dtsnet.xmlrpc import write_call
from tests.dtsd.server.programs import COMMAND, Program, run, set_key
from tests.dtsd.server.running import receive_all, status_of, write_request
from tests.services import find_program

ETC = Path(__file__).parents[3] / "etc"


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """A site whose daemon is not started yet."""
    made = Program.make(tmp_path / "site")
    yield made
    made.kill()


SIZE = 1 << 30
GOOD = "Jf8w-2kLq9Zx0Vb7Nm4Rt6Yp1Hs3Dc5Ag"
USERS = {
    "is empty": "boss admin\n",
    "at least 32": "boss admin shortsecret12\n",
    "can be guessed": f"boss admin {'changeme' * 5}\n",
    "guessed": f"boss admin {'ab' * 20}\n",
    "names no admin": f"boss operate {GOOD}\n",
    "no admin": "",
    "this is not a user": f"boss emperor {GOOD}\n",
    "stands there twice": f"boss admin {GOOD}\nboss read {GOOD}x\n",
    "not a user's name": f"../boss admin {GOOD}\n",
    "this is not a user ": f"boss admin {GOOD} more\n",
}


@pytest.mark.parametrize("said", USERS)
def test_it_refuses_to_start_with_bad_users(program: Program, said: str) -> None:
    """An empty, short or guessable secret, no admin, anything that is no user: exit code 78, and the reason is told."""
    path = program.folder / "etc" / "dtsd.users"
    path.write_text(USERS[said])
    for word in ("run", "check"):
        done = run(program.folder, word)
        assert done.returncode == 78, done.stderr
        assert said.strip() in done.stderr
        assert "hint:" in done.stderr
        assert GOOD not in done.stderr


def test_it_refuses_to_start_where_others_can_look(program: Program) -> None:
    """A users file that others may read, or none, and an address off this host without TLS."""
    path = program.folder / "etc" / "dtsd.users"
    path.chmod(0o640)
    assert "0640" in run(program.folder, "run").stderr
    path.chmod(0o600)
    set_key(program.folder, "host", "192.0.2.1")
    done = run(program.folder, "run")
    assert done.returncode == 78
    assert "dtsd certificate" in done.stderr
    set_key(program.folder, "host", "127.0.0.1")
    path.unlink()
    assert "dtsd user add" in run(program.folder, "run").stderr


def test_users_come_and_go_while_it_runs(program: Program) -> None:
    """What `dtsd user` does counts from the next call on; the last admin stays; secrets are not shown again."""
    program.start()
    secret = run(program.folder, "user", "add", "cam", "transfer").stdout.strip()
    address = program.remote().address
    cam = Remote(type(address)(address.url, "cam", secret.encode()))
    found = cam.call("whoami")
    assert isinstance(found, dict)
    assert (found["user"], found["role"]) == ("cam", "transfer")
    listed = run(program.folder, "user", "list").stdout
    assert "cam" in listed
    assert secret not in listed
    assert run(program.folder, "user", "add", "cam", "read").returncode == 6
    target = program.folder / "x.secret"
    assert run(program.folder, "user", "add", "eye", "read", "--to", str(target)).stdout == ""
    assert target.stat().st_mode & 0o777 == 0o600
    assert run(program.folder, "user", "remove", "cam").returncode == 0
    with pytest.raises(CredentialsError):
        cam.call("ping")
    assert run(program.folder, "user", "remove", "admin").returncode == 78
    assert program.remote().call("ping") == "pong"
    users = program.folder / "etc" / "dtsd.users"
    users.write_text("broken\n")
    assert program.remote().call("ping") == "pong"
    assert program.end() == 0


def big(program: Program) -> str:
    """Make a file whose checksum takes a while, and return its name."""
    with (program.folder / "data" / "big").open("wb") as stream:
        stream.truncate(SIZE)
    return "big"


def until_working(program: Program, calls: int) -> None:
    """Wait until so many calls are in work."""
    remote = program.remote()
    while True:
        found = remote.call("nodeStat")
        assert isinstance(found, dict)
        if int(str(found["working"])) > calls:
            break
    remote.close()


def test_sigterm_lets_a_call_finish(program: Program) -> None:
    """A call in work is answered, no new one is taken, and the exit code is 0."""
    program.start()
    name = big(program)
    answers: list[object] = []
    caller = threading.Thread(target=lambda: answers.append(program.remote().call("checksum", name, "crc32c")))
    caller.start()
    until_working(program, 1)
    assert program.end() == 0
    caller.join()
    assert isinstance(answers[0], dict)
    assert answers[0]["size"] == SIZE
    with pytest.raises(StreamLostError):
        program.remote(timeout=5).call("ping")


def test_sigterm_does_not_wait_for_ever(program: Program) -> None:
    """After [dtsd] grace a call is told to end, and says so."""
    set_key(program.folder, "grace", "200 ms")
    program.start()
    name = big(program)
    errors: list[DtsError] = []

    def call() -> None:
        try:
            program.remote().call("checksum", name, "md5,sha256,blake3")
        except DtsError as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    until_working(program, 1)
    assert program.end() == 0
    caller.join()
    assert "stopping" in errors[0].message


@pytest.mark.parametrize("way", ["SIGHUP", "restart"])
def test_a_new_start_loses_no_call(program: Program, way: str) -> None:
    """While clients call without a pause the daemon begins anew three times: each call is answered, the pid stays."""
    program.start()
    stop, answers, errors = threading.Event(), [], []

    def client(number: int) -> None:
        remote = program.remote()
        count = 0
        while not stop.is_set():
            if number % 2:
                remote = program.remote()  # on a connection of its own each time
            try:
                answers.append(remote.call("mkdir", f"d{number}-{count}"))
            except DtsError as error:
                errors.append((error, error.message))
            count += 1
            if number % 2:
                remote.close()
            time.sleep(0.005)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in clients:
        thread.start()
    assert program.process is not None
    for _ in range(3):
        begun = started(program)
        if way == "SIGHUP":
            program.process.send_signal(signal.SIGHUP)
        else:
            program.remote().call("restart")
        while started(program) == begun:
            time.sleep(0.05)
    stop.set()
    for thread in clients:
        thread.join()
    assert errors == []
    assert set(answers) == {True}
    assert len(list((program.folder / "data").iterdir())) == len(answers)
    assert program.end() == 0


def started(program: Program) -> float:
    """Return when the daemon began, to the tenth of a second."""
    found = program.remote().call("nodeStat")
    assert isinstance(found, dict)
    assert program.process is not None
    assert found["pid"] == program.process.pid
    return round(float(str(found["time"])) - float(str(found["uptime"])), 1)


def test_settings_hold_over_a_new_start_and_end_with_the_daemon(program: Program) -> None:
    """What dtsSet set is there after SIGHUP, and gone after an end and a start."""
    program.start()
    program.remote().call("dtsSet", "dtsd", "idle", "17 s")
    begun = started(program)
    assert program.process is not None
    program.process.send_signal(signal.SIGHUP)
    while started(program) == begun:
        time.sleep(0.05)
    assert value(program, "idle") == "17 s"
    program.end()
    program.start()
    assert value(program, "idle") == "60 s"


def test_a_mistake_does_not_end_the_daemon_that_runs(program: Program) -> None:
    """Told to begin anew with a broken dts.ini it goes on as it is, says why, and does so later when it is mended."""
    program.start()
    begun = started(program)
    set_key(program.folder, "nonsense", "1")
    assert program.process is not None
    program.process.send_signal(signal.SIGHUP)
    while "goes on as it is" not in program.output():
        time.sleep(0.05)
    with pytest.raises(ConfigurationError, match="nonsense"):
        program.remote().call("restart")
    assert started(program) == begun
    ini = program.folder / "etc" / "dts.ini"
    ini.write_text(ini.read_text().replace("nonsense = 1\n", ""))
    assert program.remote().call("restart") is True
    while started(program) == begun:
        time.sleep(0.05)
    assert program.end() == 0


def value(program: Program, key: str) -> object:
    """Return the value of a key of [dtsd] as the daemon has it."""
    rows = program.remote().call("dtsGet", "dtsd", key)
    assert isinstance(rows, list)
    assert isinstance(rows[0], dict)
    return rows[0]["value"]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_a_request_is_not_taken_again_by_the_next_daemon(program: Program, number: signal.Signals) -> None:
    """What one daemon took is refused by the next, however the first one ended."""
    program.start()
    body = write_call("mkdir", ("once",))
    signed = sign("admin", program.secret, body)
    raw = write_request({"Content-Length": str(len(body)), "Connection": "close", **signed.headers()}, body)
    assert b"<boolean>1" in say(program, raw)
    (program.folder / "data" / "once").rmdir()
    begun = started(program)
    assert program.process is not None
    program.process.send_signal(number)
    if number == signal.SIGHUP:
        while started(program) == begun:
            time.sleep(0.05)
    else:
        program.process.wait(60)
        program.start()
    assert status_of(say(program, raw)) == 401
    assert not (program.folder / "data" / "once").exists()


def say(program: Program, raw: bytes) -> bytes:
    """Send bytes and return the answer."""
    with socket.create_connection(("127.0.0.1", program.port), timeout=30) as connection:
        connection.sendall(raw)
        return receive_all(connection)


LAUNCHER = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
if sys.argv[2] == "systemd":
    os.dup2(listener.fileno(), 3)
    os.set_inheritable(3, True)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
else:
    os.dup2(listener.fileno(), 0)
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


@pytest.mark.parametrize("kind", ["systemd", "inetd"])
def test_a_socket_that_somebody_passes(program: Program, kind: str) -> None:
    """The daemon takes a socket from systemd (LISTEN_FDS) or from inetd (standard input), and begins anew with it."""
    port = program.port
    set_key(program.folder, "port", "1")  # where it could not listen by itself, or should not
    words = [*COMMAND[1:], "--config", str(program.folder), "run"]
    with (program.folder / "out").open("wb") as out:
        program.process = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(port), kind, *words], stderr=out)
    program.wait()
    begun = started(program)
    program.process.send_signal(signal.SIGHUP)
    while started(program) == begun:
        time.sleep(0.05)
    assert program.end() == 0


def test_runit_keeps_it_running(program: Program) -> None:
    """The service folder of etc/runit under a real runsvdir: started, started again after SIGKILL, stopped."""
    service = program.folder / "services" / "dtsd"
    shutil.copytree(ETC / "runit" / "dtsd", service)
    site = program.folder
    paths = {"CONFIG": site / "etc/dts.ini", "BIN": Path(sys.executable).parent, "LOG": site / "log"}
    (program.folder / "default").write_text("".join(f"DTS_{name}={path}\n" for name, path in paths.items()))
    for path in service.rglob("run"):
        path.write_text(path.read_text().replace("/etc/default/dts", str(program.folder / "default")))
    runsvdir = subprocess.Popen([find_program("runsvdir"), "-P", str(service.parent)], start_new_session=True)
    try:
        (program.folder / "out").touch()
        program.wait()
        found = program.remote().call("nodeStat")
        assert isinstance(found, dict)
        os.kill(int(str(found["pid"])), signal.SIGKILL)
        program.wait()
        again = program.remote().call("nodeStat")
        assert isinstance(again, dict)
        assert again["pid"] != found["pid"]
        done = subprocess.run([find_program("sv"), "-w", "40", "stop", str(service)], check=False, timeout=60,
                              capture_output=True, text=True)  # fmt: skip
        assert "ok: down" in done.stdout
    finally:
        subprocess.run([find_program("sv"), "-w", "20", "force-stop", str(service)], check=False, capture_output=True)
        runsvdir.send_signal(signal.SIGHUP)
        runsvdir.wait(20)
