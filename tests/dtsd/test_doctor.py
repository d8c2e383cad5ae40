"""`dts doctor`, `dts se` and `dts config`: each thing that may be wrong is named, with a hint."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from sqlalchemy.engine import Connection

from catalog import store as catalog
from dtscore.config import load
from dtscore.database import Database, now
from dtsd import doctor, health
from reqdb import store
from reqdb.models import agents, channels, files
from reqdb.spec import FileSpec, OperationSpec, RequestSpec

Dts = Callable[..., Result]


def _checks(result: Result) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for check in json.loads(result.stdout)["checks"]:
        found.setdefault(check["name"], []).append(check)
    return found


def test_a_new_site_is_healthy(either_site: Path, dts: Dts, backend: str) -> None:
    """Every check is ok but the agents, of which none runs; PostgreSQL of the tests is not durable, and that shows."""
    dts(either_site, "db", "upgrade")
    result = dts(either_site, "doctor", "--json")
    found = _checks(result)
    states = {name: [check["state"] for check in checks] for name, checks in found.items()}
    assert states["configuration"] == states["database"] == states["clock"] == states["disk"] == ["ok"]
    assert states["se.local"] == states["se.archive"] == ["ok"]
    assert states["agents"] == ["warn"]
    assert states["waiting"] == ["ok"]
    assert states["durability"] == ["ok" if backend == "sqlite" else "fail"]
    assert result.exit_code == (0 if backend == "sqlite" else 1)
    assert "fsync" in found["durability"][0]["sentence"] or backend == "sqlite"


def test_a_broken_configuration_is_a_finding(site: Path, dts: Dts) -> None:
    """The doctor does not fall over what it is there to find."""
    (site / "etc/dts.ini").write_text("[agents]\nworkres = 3\n")
    result = dts(site, "doctor", "--json")
    assert result.exit_code == 1
    (check,) = _checks(result)["configuration"]
    assert "workres" in check["sentence"]
    assert "workers" in check["hint"]


def test_a_missing_or_old_database_is_a_finding(site: Path, dts: Dts) -> None:
    """Both say `dts db upgrade`; looking does not make an empty database."""
    (site / "var/dts.db").unlink()
    (check,) = _checks(dts(site, "doctor", "--json"))["database"]
    assert (check["state"], check["hint"]) == ("fail", "make it with: dts db upgrade")
    assert not (site / "var/dts.db").exists()
    database = Database(load(site).database.url)
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE x (a INTEGER)")
    database.close()
    (check,) = _checks(dts(site, "doctor", "--json"))["database"]
    assert "lacks 5 migrations" in check["sentence"]


def test_a_database_that_is_away_is_a_finding(site: Path, dts: Dts) -> None:
    """The storage elements are looked at all the same."""
    ini = site / "etc/dts.ini"
    ini.write_text(ini.read_text().replace("sqlite:///var/dts.db", "postgresql+psycopg://u:pw@127.0.0.1:1/x"))
    result = dts(site, "doctor", "--json")
    found = _checks(result)
    assert found["database"][0]["state"] == "fail"
    assert found["se.local"][0]["state"] == "ok"
    assert found["secrets"][0]["state"] == "warn", "the file holds a password and has mode 0644"
    assert "pw" not in result.stdout.replace("pwd", "")


def test_a_storage_element_that_fails_is_named(site: Path, dts: Dts) -> None:
    """A missing root is a failure of that element alone, in `doctor` and in `se check`."""
    (site / "archive").rmdir()
    found = _checks(dts(site, "doctor", "--json"))
    assert (found["se.local"][0]["state"], found["se.archive"][0]["state"]) == ("ok", "fail")
    assert found["se.archive"][0]["hint"]
    assert dts(site, "se", "check").exit_code == 1
    assert dts(site, "se", "check", "local").exit_code == 0
    unknown = dts(site, "se", "check", "locla")
    assert unknown.exit_code == 4
    assert "'local'" in unknown.stderr


def test_a_probe_leaves_nothing_behind(site: Path, dts: Dts) -> None:
    """The probing file is gone."""
    dts(site, "se", "check")
    assert [path for path in (site / "local").rglob("*") if path.is_file()] == []


def test_a_dead_server_does_not_hold_up_the_doctor(site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server that takes connections and never answers costs the time-out and no more."""
    monkeypatch.setattr(doctor, "_PROBE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        (tmp_path / "known_hosts").write_text("")
        ini = site / "etc/dts.ini"
        ini.write_text(
            ini.read_text()
            + f"\n[se.far]\ntype = sftp\nhost = 127.0.0.1\nport = {port}\nuser = x\nroot = /x\n"
            + f"known_hosts = {tmp_path}/known_hosts\n"
        )
        found = {check.name: check for check in doctor.elements(load(site))}
    assert found["se.local"].state == "ok"
    assert found["se.far"].state == "fail"


def test_a_full_or_missing_disk(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little space is a warning, none a failure, a missing folder a warning with the command that makes it."""
    (site / "var/cache").rmdir()
    for least, state in ((10**18, "warn"), (0, "ok")):
        monkeypatch.setattr(doctor, "_LITTLE_SPACE", least)
        found = [check for check in doctor.examine(site) if check.name == "disk"]
        assert {check.state for check in found if "cache" not in check.sentence} == {state}
        assert any(check.hint == f"mkdir -p {site}/var/cache" for check in found)
    monkeypatch.setattr(doctor, "_LITTLE_SPACE", 10**18)
    monkeypatch.setattr(doctor, "_NO_SPACE", 10**18)
    assert "fail" in {check.state for check in doctor.examine(site) if check.name == "disk"}


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    """An open write transaction, on both databases."""
    with database.write() as opened:
        yield opened


def _agent(connection: Connection, **changes: Any) -> None:
    moment = now(connection)
    row = {
        "kind": "transfer",
        "node": "here",
        "pid": 7,
        "state": "Running",
        "poll_interval": 5.0,
        "started_at": moment,
        "heartbeat_at": moment,
        "ticked_at": moment,
        "lease_until": moment + timedelta(seconds=30),
    }
    ages = {key: moment - timedelta(seconds=value) for key, value in changes.items() if key.endswith(("_at", "_until"))}
    connection.execute(sa.insert(agents), {**row, **changes, **ages})


@pytest.mark.parametrize(
    ("changes", "state", "said", "hint"),
    [
        ({}, "ok", "runs", ""),
        ({"state": "Draining"}, "ok", "drains", ""),
        ({"ticked_at": 120}, "fail", "hangs", "end process 7 on here"),
        ({"ticked_at": 60}, "ok", "runs", ""),
        ({"heartbeat_at": 20}, "warn", "late", "look at its host"),
        ({"heartbeat_at": 300, "lease_until": 270}, "fail", "died", "dts-agent run transfer"),
        ({"heartbeat_at": 300, "lease_until": 270, "state": "Lost"}, "fail", "died", "dts-agent run transfer"),
    ],
)
def test_an_agents_health(connection: Connection, changes: dict[str, Any], state: str, said: str, hint: str) -> None:
    """Running, draining, hung, late, dead: by the database's clock alone."""
    _agent(connection, **changes)
    ((found, sentence, todo),) = health.agents(connection, 5.0)
    assert found == state
    assert said in sentence
    assert "transfer@here:7" in sentence
    assert hint in todo


def test_a_dead_agent_that_was_replaced_is_a_warning(connection: Connection) -> None:
    """The site works; whoever is on duty need not get up. One that ended in order is not mentioned."""
    _agent(connection, state="Lost", heartbeat_at=3600, lease_until=3500)
    _agent(connection, state="Lost", heartbeat_at=3 * 86400, lease_until=3 * 86400)
    _agent(connection, state="Ended", heartbeat_at=60, lease_until=60)
    _agent(connection)
    assert [finding[0] for finding in health.agents(connection, 5.0)] == ["warn", "ok"]


def _submit(connection: Connection) -> None:
    transfer = OperationSpec("transfer", (FileSpec("/a/1"), FileSpec("/a/2")), "ctio", ("fnal",))
    verify = OperationSpec("verify", (FileSpec("/a/1"), FileSpec("/a/3")), None, ("fnal",))
    store.submit(connection, RequestSpec((transfer, verify), name="r"), owner="me")


def test_waiting_files_say_why(connection: Connection) -> None:
    """No agent; an agent; a storage element that does not answer; an earlier step; a moment to come."""
    assert list(health.waiting(connection)) == [("ok", "no file waits", "")]
    _submit(connection)
    found = list(health.waiting(connection))
    assert found[0][0] == "fail"
    assert "2 files wait for transfer (ctio → fnal), but no transfer agent runs" in found[0][1]
    assert found[0][2] == "dts-agent run transfer"
    assert any("earlier" in sentence for _, sentence, _ in found[1:])
    _agent(connection)
    assert next(iter(health.waiting(connection)))[0] == "ok"
    rest = {"rests_until": now(connection) + timedelta(seconds=20), "error": "connection refused"}
    connection.execute(sa.update(channels).where(channels.c.type == "transfer").values(rest))
    state, sentence, hint = next(iter(health.waiting(connection)))
    assert (state, hint) == ("warn", "dts se check")
    assert "connection refused" in sentence
    connection.execute(sa.update(files).where(files.c.state == "ToDo").values(state="Queued", waits_on="time"))
    assert any("moment" in sentence for _, sentence, _ in health.waiting(connection))


def test_a_clock_that_went_back_is_noticed(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request from the future, or two hosts that disagree."""
    _submit(connection)
    assert health.clock(connection)[0] == "ok"
    connection.execute(sa.text("UPDATE requests SET submitted_at = '2099-01-01 00:00:00.000000'"))
    state, sentence, _ = health.clock(connection)
    assert state == "warn"
    assert "in the future" in sentence
    monkeypatch.setattr(health, "now", lambda _: datetime(2020, 1, 1, tzinfo=timezone.utc))
    assert "apart" in health.clock(connection)[1]


def test_config_show_names_every_origin(site: Path, dts: Dts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default, file and line, environment; one section or all; an unknown section is 4."""
    monkeypatch.setenv("DTS_AGENTS_BATCH", "7")
    rows = json.loads(dts(site, "config", "show", "--json").stdout)
    origins = {(row["section"], row["key"]): row["origin"] for row in rows}
    assert origins["agents", "batch"] == "environment DTS_AGENTS_BATCH"
    assert origins["agents", "lease"] == "default"
    assert origins["se.local", "root"].startswith(f"{site}/etc/dts.ini:")
    shown = dts(site, "config", "show", "agents").stdout.splitlines()
    assert shown[0] == "SECTION\tKEY\tVALUE\tORIGIN"
    assert all(line.startswith("agents\t") for line in shown[1:])
    assert dts(site, "config", "show", "agnets").exit_code == 4


def test_se_list_shows_the_elements(site: Path, dts: Dts) -> None:
    """Name, type, limit and options; secrets hidden."""
    ini = site / "etc/dts.ini"
    ini.write_text(ini.read_text() + "\n[se.s]\ntype = fsspec\nurl = memory://x\nsecret = t0psecret\n")
    found = {one["name"]: one for one in json.loads(dts(site, "se", "list", "--json").stdout)}
    assert found["local"]["options"]["root"] == str(site / "local")
    assert found["s"]["options"]["secret"] == "(hidden)"
    assert "t0psecret" not in dts(site, "se", "list").stdout


def test_bad_replicas_are_named(connection: Connection) -> None:
    """The doctor counts the replicas that are Bad or Suspect on each element, and says how to list them."""
    assert [finding[0] for finding in health.replicas(connection)] == ["ok"]
    good = catalog.Registration("/a/b", 1, "adler32:00000001", "archive", "a/b", "full")
    catalog.register(connection, [good])
    catalog.mark(connection, "/a/b", "archive", "Bad", "flipped bit")
    ((state, sentence, hint),) = health.replicas(connection)
    assert (state, sentence) == ("warn", "1 replica on archive: Bad")
    assert "dts-catalog find" in hint
    found = catalog.find(connection, hint.split('"')[1])
    assert [entry.lfn for entry in found] == ["/a/b"]


def test_queues_that_cannot_work_are_named(site: Path, dts: Dts) -> None:
    """A folder on no element, a remote without a way, a program that is not there; and one that is right."""
    path = site / "etc/dts.ini"
    path.write_text(
        path.read_text() + "[queue right]\nsource = local\ntarget = archive\nfolder = local/drop\n"
        "[queue astray]\ntarget = archive\nfolder = /nowhere\n[queue far]\nsource = local\ntarget = fnal:des\n"
        "[delivery gone]\ncommand = /no/such/program\n"
    )
    dts(site, "db", "upgrade")
    found = {check["sentence"]: check["state"] for check in _checks(dts(site, "doctor", "--json"))["queues"]}
    assert found == {
        "queue right can make its requests": "ok",
        "queue astray: its folder /nowhere lies on no storage element of this host": "fail",
        "queue far: [queue far] target: no storage element leads to the remote 'fnal'": "fail",
        "delivery gone: there is no program /no/such/program that may be run": "fail",
    }
