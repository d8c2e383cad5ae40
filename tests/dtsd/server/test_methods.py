"""Requests, settings, logs and the node itself, called from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from dtscore import logging
from dtscore.errors import (
    NotFoundError,
    PermissionRefusedError,
    RequestFileError,
    StateError,
    UsageError,
)
from dtsd.methods import BY_NAME, METHODS
from dtsnet.rpc import Remote
from tests.dtsd.server.running import Running, running

DOCUMENT = """<request name="{name}" {more}>
<operation type="transfer" source="local" target="archive"><file lfn="/des/a.fits"/></operation></request>"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon whose log is a file."""
    folder: Path = tmp_path_factory.mktemp("methods")
    with running(folder / "site") as one:
        one.daemon.site.change("log", "file", str(folder / "log"))
        logging.set_up("info", "console", folder / "log")
        yield one
        logging.set_up("error", "console", folder / "log")


@pytest.fixture
def site(served: Running) -> Iterator[Remote]:
    """Call as admin."""
    remote = served.remote()
    yield remote
    remote.close()


def struct(value: Any) -> dict[str, Any]:
    """Return a struct."""
    assert isinstance(value, dict)
    return value


def test_a_request_from_submission_to_its_second_life(site: Remote) -> None:
    """Submitted once however often it is sent; seen, explained, cancelled, and let begin again."""
    document = DOCUMENT.format(name="r1", more="").encode()
    first, again = struct(site.call("submitRequest", document)), struct(site.call("submitRequest", document))
    assert (first["name"], first["files"], first["existing"]) == ("r1", 1, False)
    assert (again["id"], again["existing"]) == (first["id"], True)
    number = str(first["id"])
    shown = struct(site.call("requestStatus", "r1", 10))
    assert (shown["id"], shown["owner"], shown["state"]) == (first["id"], "admin", "ToDo")
    assert shown["origin"] == "dtsd:admin@127.0.0.1"
    assert shown["files"][0]["lfn"] == "/des/a.fits"
    assert "finished_at" not in shown
    assert abs(shown["submitted_at"] - cast(float, struct(site.call("nodeStat"))["time"])) < 600
    explained = struct(site.call("explainRequest", number))
    assert explained["reasons"][0]["count"] == 1
    site.call("cancelRequest", number)
    assert struct(site.call("requestStatus", number))["state"] == "Cancelled"
    site.call("retryRequest", "r1")
    assert struct(site.call("requestStatus", number))["state"] == "ToDo"
    listed = site.call("listRequests", "ToDo", "admin")
    assert isinstance(listed, list)
    assert [struct(one)["name"] for one in listed] == ["r1"]
    assert site.call("listRequests", "Failed") == []


def test_requests_that_are_refused(served: Running, site: Remote) -> None:
    """A mistake in the file with its line, a name that is taken, somebody else as owner, no such request."""
    with pytest.raises(RequestFileError, match=":2"):
        site.call("submitRequest", b"<request>\n<operation type='fly'/></request>")
    site.call("submitRequest", DOCUMENT.format(name="r2", more="").encode())
    with pytest.raises(StateError, match="r2"):
        site.call("submitRequest", DOCUMENT.format(name="r2", more="priority='9'").encode())
    with pytest.raises(PermissionRefusedError, match="transfer"):
        served.remote("transfer").call("submitRequest", DOCUMENT.format(name="r3", more="").encode(), "somebody")
    done = struct(served.remote("transfer").call("submitRequest", DOCUMENT.format(name="r3", more="").encode()))
    assert struct(site.call("requestStatus", str(done["id"])))["owner"] == "transfer"
    for method in ("requestStatus", "explainRequest", "cancelRequest", "retryRequest"):
        with pytest.raises(NotFoundError):
            site.call(method, "nothing")


def test_settings_are_read_and_set(served: Running, site: Remote) -> None:
    """Every setting with its origin; live ones change at once, others say what to do, wrong values are refused."""
    rows = site.call("dtsGet")
    assert isinstance(rows, list)
    found = {(struct(row)["section"], struct(row)["key"]) for row in rows}
    assert {("dtsd", "idle"), ("database", "url"), ("remote.here", "secret_file"), ("se.local", "root")} <= found
    assert struct(site.call("dtsSet", "dtsd", "patience", "7 s"))["value"] == "7 s"
    assert served.daemon.site.config.dtsd.patience == 7.0
    with pytest.raises(UsageError, match="duration"):
        site.call("dtsSet", "dtsd", "patience", "soon")
    with pytest.raises(StateError, match="while the daemon runs"):
        site.call("dtsSet", "dtsd", "port", "1")
    with pytest.raises(NotFoundError, match="patients"):
        site.call("dtsSet", "dtsd", "patients", "1")
    with pytest.raises(NotFoundError):
        site.call("dtsGet", "dtsd", "patients")
    settable = site.call("dtsSettable")
    assert isinstance(settable, list)
    assert all(struct(row)["live"] for row in settable)
    for row in [struct(row) for row in settable if struct(row)["section"] in ("dtsd", "log")]:
        assert struct(site.call("dtsSet", row["section"], row["key"], row["value"]))["value"] == row["value"]


def test_no_secret_is_ever_shown(served: Running, site: Remote) -> None:
    """Neither by dtsGet nor in the log, of the database, a storage element or a user."""
    ini = served.folder / "etc" / "dts.ini"
    before = ini.read_text()
    ini.write_text(before + "\n[se.cloud]\ntype = fsspec\nsecret_key = hush-hush-1\n")
    try:
        site.call("dtsSet", "dtsd", "idle", "60 s")  # reads dts.ini again
        shown = repr(site.call("dtsGet")) + repr(site.call("getLog", 10_000))
    finally:
        ini.write_text(before)
    assert "hush-hush-1" not in shown
    assert "cloud" in shown
    assert not any(secret.decode() in shown for secret in served.secrets.values())


def test_logs(served: Running, site: Remote) -> None:
    """The end of the daemon's log, a queue's lines of it, and lines that another host hands in."""
    logging.get("x").warning("something of note", queue="des")
    logging.get("x").warning("something else", queue="des-two")
    lines = site.call("getLog", 50)
    assert isinstance(lines, list)
    assert len(lines) <= 50
    assert any("something else" in str(line) for line in lines)
    assert len(cast(list[Any], site.call("getLog", 1))) == 1
    (line,) = cast(list[Any], site.call("getQLog", "des"))
    assert "something of note" in line
    assert site.call("submitLogs", "camera", "one\n\ntwo\x85three") == 3
    kept = (served.folder / "var" / "log" / "submitted-admin.log").read_text()
    assert "'camera' one\n" in kept


def test_the_node(site: Remote) -> None:
    """What it says of itself is of the right kind, and counts."""
    first, second = struct(site.call("nodeStat")), struct(site.call("nodeStat"))
    assert second["calls"] > first["calls"]
    assert first["working"] >= 1
    assert first["memory"] > 1 << 20
    assert site.call("version") == first["version"]
    assert cast(float, site.call("uptime")) >= first["uptime"]


def test_it_tells_what_it_can(site: Remote) -> None:
    """Names, help and signatures of all methods, as the table has them; no method runs a program."""
    assert site.call("system.listMethods") == sorted(BY_NAME)
    for method in METHODS:
        assert method.doc in str(site.call("system.methodHelp", method.name))
        signatures = site.call("system.methodSignature", method.name)
        assert isinstance(signatures, list)
        assert signatures
    assert not any("exec" in name.lower() or "system(" in name.lower() for name in BY_NAME)
    with pytest.raises(NotFoundError, match="execCmd"):
        site.call("execCmd", "ls")
