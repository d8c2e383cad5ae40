"""The import agent: what becomes of a request file that is dropped into the spool folder."""

from __future__ import annotations

import getpass
import os
import threading
import time
from pathlib import Path

import pytest
from lxml import etree

from agents.import_agent import ImportAgent
from agents.services import Services
from reqdb.xml import ANNOTATION
from tests.agents.sites import Site, put, until

ALL = ("import", "transfer", "import")


def request_text(*names: str, target: str = "archive", more: str = "") -> str:
    """Return a request file that transfers night/NAME from `local`."""
    files = "".join(f'    <file lfn="/night/{name}" pfn="night/{name}"/>\n' for name in names)
    return (
        f'<request {more}>\n  <operation type="transfer" source="local" target="{target}">\n'
        f"{files}  </operation>\n</request>\n"
    )


def folder(site: Site, name: str) -> list[str]:
    """Return the names in a folder of the spool, without hidden ones."""
    path = site.config.spool.folder / name
    return sorted(each.name for each in path.iterdir() if not each.name.startswith(".")) if path.exists() else []


def drop(site: Site, name: str, text: str, *, age: float = 10.0) -> Path:
    """Drop a file into ToDo/ that was written some seconds ago."""
    path = site.config.spool.folder / "ToDo" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def result_of(path: Path) -> tuple[etree._Element, list[etree._Element]]:
    """Return the root of an annotated request file and its results."""
    root = etree.parse(path).getroot()
    return root, root.findall(f".//{{{ANNOTATION}}}result")


def test_from_todo_to_running_to_done(site: Site) -> None:
    """A dropped file becomes a request; when it ends it stands in Done/ with ids, times, states and checksums."""
    put(site, "a.fits", "b.fits")
    drop(site, "night.xml", request_text("a.fits", "b.fits"))
    assert site.once("import") == {"imported": 1}
    assert (folder(site, "ToDo"), folder(site, "Running")) == ([], ["night.xml"])
    assert site.rows("SELECT owner, origin, state FROM requests") == [(getpass.getuser(), "spool:night.xml", "ToDo")]
    site.once("transfer")
    site.once("import")
    assert (folder(site, "Running"), folder(site, "Done")) == ([], ["night.xml"])
    root, results = result_of(site.config.spool.folder / "Done/night.xml")
    notes = {name.rpartition("}")[2]: value for name, value in root.attrib.items() if ANNOTATION in name}
    ((number,),) = site.rows("SELECT id FROM requests")
    assert (notes["id"], notes["state"]) == (str(number), "Done")
    assert notes["submitted"] < notes["finished"]
    assert [one.get("state") for one in results] == ["Done", "Done"]
    assert all(one.get("id") and one.get("ended") and one.get("checksum") for one in results)


def test_a_failed_request_stands_in_failed_with_the_errors(site: Site) -> None:
    """Each failed file says its class and reason; the files that went well say so too."""
    put(site, "a.fits")
    drop(site, "night.xml", request_text("a.fits", "none.fits"))
    site.once("import")
    site.once("transfer")
    site.once("import")
    assert folder(site, "Failed") == ["night.xml"]
    _, results = result_of(site.config.spool.folder / "Failed/night.xml")
    assert {one.get("state") for one in results} == {"Done", "Failed"}
    failed = next(one for one in results if one.get("state") == "Failed")
    assert failed.get("error-class") == "missing"
    assert "none.fits" in (failed.get("error") or "")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<request><operation", "bad.xml:1"),
        (request_text("a.fits", target="nonesuch"), "nonesuch"),
        (request_text("a.fits", "a.fits"), "bad.xml:4"),
        ('<!DOCTYPE r [<!ENTITY x "y">]>\n' + request_text("a.fits"), "bad.xml:1"),
        (request_text("../../etc/passwd"), "bad.xml:3"),
        ("", "bad.xml"),
        ("\0\0\0", "bad.xml"),
    ],
)
def test_a_bad_file_is_put_aside_with_the_reason(site: Site, text: str, found: str) -> None:
    """It stands in Failed/ as it was, beside it the error with place and hint; no row is written."""
    drop(site, "bad.xml", text)
    assert site.once("import") == {"refused": 1}
    assert folder(site, "Failed") == ["bad.xml", "bad.xml.error.txt"]
    assert (site.config.spool.folder / "Failed/bad.xml").read_text() == text
    reason = (site.config.spool.folder / "Failed/bad.xml.error.txt").read_text()
    assert reason.startswith("error: ")
    assert "\nhint: " in reason
    assert found in reason
    assert site.rows("SELECT count(*) FROM requests") == [(0,)]
    assert site.once("import") == {}


def test_a_half_written_file_is_taken_when_it_is_complete(site: Site) -> None:
    """A file that is cut off and fresh goes on being written: it is left in ToDo/ until it is whole."""
    put(site, "a.fits")
    text = request_text("a.fits")
    path = drop(site, "night.xml", text[:40], age=0)
    assert site.once("import") == {}
    assert (folder(site, "ToDo"), folder(site, "Failed")) == (["night.xml"], [])
    with path.open("a") as stream:
        stream.write(text[40:])
    assert site.once("import") == {"imported": 1}


def test_names_of_files_being_written_are_left_alone(site: Site) -> None:
    """Hidden files, *.tmp, *.part and editors' copies are nobody's requests yet."""
    for name in (".hidden.xml", "a.xml.tmp", "b.part", "c.xml~"):
        drop(site, name, request_text("a.fits"))
    assert site.once("import") == {}
    assert site.rows("SELECT count(*) FROM requests") == [(0,)]


def test_the_same_file_dropped_twice_is_one_request(site: Site) -> None:
    """Both copies end in Done/ under names of their own; the work was done once."""
    put(site, "a.fits")
    for name in ("one.xml", "two.xml"):
        drop(site, name, request_text("a.fits"))
    assert site.once("import") == {"imported": 2}
    assert site.rows("SELECT count(*) FROM requests") == [(1,)]
    site.once("transfer")
    site.once("import")
    assert folder(site, "Done") == ["one.xml", "two.xml"]
    assert site.rows("SELECT count(*) FROM accounting_attempts") == [(1,)]


def test_a_taken_name_with_other_content_is_refused(site: Site) -> None:
    """The second file says which request has its name."""
    drop(site, "one.xml", request_text("a.fits", more='name="night"'))
    drop(site, "two.xml", request_text("b.fits", more='name="night"'), age=5)
    assert site.once("import") == {"imported": 1, "refused": 1}
    assert "already has the name 'night'" in (site.config.spool.folder / "Failed/two.xml.error.txt").read_text()


def test_names_that_collide(site: Site) -> None:
    """A file whose name is in work, or has ended before, gets a number; nothing is overwritten."""
    put(site, "a.fits", "b.fits", "c.fits")
    for name in ("a.fits", "b.fits"):
        drop(site, "night.xml", request_text(name))
        site.once("import")
    assert folder(site, "Running") == ["night.2.xml", "night.xml"]
    site.once(*ALL)
    assert folder(site, "Done") == ["night.2.xml", "night.xml"]
    drop(site, "night.xml", request_text("c.fits"))
    site.once(*ALL)
    assert folder(site, "Done") == ["night.2.xml", "night.3.xml", "night.xml"]
    assert site.rows("SELECT count(*) FROM requests") == [(3,)]


def test_a_job_description_names_its_request(site: Site) -> None:
    """The JDL and the XML file that it names lie in ToDo/ together: one request, and both end in Done/."""
    put(site, "a.fits")
    drop(site, "night.jdl", 'JobType = "request";\nRequestType = "transfer";\nInputData = "night.xml";\n', age=1)
    drop(site, "night.xml", request_text("a.fits"), age=20)
    site.once("import")
    assert folder(site, "Failed") == []
    assert folder(site, "Running") == ["night.jdl.xml", "night.xml"]
    assert site.rows("SELECT count(*), min(owner) FROM requests") == [(1, getpass.getuser())]
    site.once("transfer")
    site.once("import")
    assert folder(site, "Done") == ["night.jdl.xml", "night.xml"]


def test_a_job_description_may_name_a_file_below_it(site: Site) -> None:
    """Folders below ToDo/ are not looked through: the XML file waits there for its job description, and stays."""
    put(site, "a.fits")
    path = site.config.spool.folder / "ToDo/files/night.xml"
    path.parent.mkdir(parents=True)
    path.write_text(request_text("a.fits"))
    assert site.once("import") == {}
    drop(site, "night.jdl", 'JobType = "request";\nRequestType = "transfer";\nRequestFile = "files/night.xml";\n')
    site.once(*ALL)
    assert folder(site, "Done") == ["night.jdl.xml"]
    assert path.exists()


def test_a_job_description_waits_a_moment_for_its_file(site: Site) -> None:
    """Dropped first, it stays in ToDo/ until the XML file that it names is there."""
    put(site, "a.fits")
    drop(site, "night.jdl", 'JobType = "request";\nRequestType = "transfer";\nInputData = "night.xml";\n', age=0)
    assert site.once("import") == {}
    assert folder(site, "ToDo") == ["night.jdl"]
    drop(site, "night.xml", request_text("a.fits"))
    assert site.once("import") == {"imported": 2}


def test_a_job_description_without_its_file_is_put_aside(site: Site) -> None:
    """The error names the missing file."""
    drop(site, "night.jdl", 'JobType = "request";\nRequestType = "transfer";\nInputData = "none.xml";\n')
    assert site.once("import") == {"refused": 1}
    assert folder(site, "Failed") == ["night.jdl", "night.jdl.error.txt"]
    assert "none.xml" in (site.config.spool.folder / "Failed/night.jdl.error.txt").read_text()


@pytest.mark.parametrize(("module", "name"), [("reqdb.store", "submit"), ("agents.import_agent", "read_any")])
def test_a_restart_goes_on_with_what_is_in_running(site: Site, module: str, name: str) -> None:
    """Killed with the file in Running/, before its request was written: the next agent writes it, once."""
    put(site, "a.fits")
    drop(site, "night.xml", request_text("a.fits"))
    site.dying(module, name, "import")
    assert folder(site, "Running") == ["night.xml"]
    site.once(*ALL)
    assert folder(site, "Done") == ["night.xml"]
    assert site.rows("SELECT count(*) FROM requests") == [(1,)]


def test_a_restart_between_the_end_and_the_annotation(site: Site) -> None:
    """Killed while it annotated: nothing half-written is seen, and the next agent annotates."""
    put(site, "a.fits")
    drop(site, "night.xml", request_text("a.fits"))
    site.once("import")
    site.once("transfer")
    site.dying("agents.import_agent", "write_request", "import")
    assert (folder(site, "Running"), folder(site, "Done")) == (["night.xml"], [])
    site.once("import")
    assert (folder(site, "Running"), folder(site, "Done")) == ([], ["night.xml"])


def test_two_import_agents_at_once(site: Site) -> None:
    """Two agents on one spool: each file is one request, and ends in Done/ once."""
    names = [f"f{number}.fits" for number in range(30)]
    put(site, *names)
    for name in names:
        drop(site, f"{name}.xml", request_text(name))
    agents = [ImportAgent(Services(site.config)) for _ in range(2)]

    def work(agent: ImportAgent) -> None:
        for _ in range(20):
            agent.run_once()
            time.sleep(0.02)

    threads = [threading.Thread(target=work, args=(agent,)) for agent in agents]
    for thread in threads:
        thread.start()
    site.once("transfer")
    for thread in threads:
        thread.join()
    site.once("transfer")
    for agent in agents:
        agent.run_once()
        agent.close()
        agent.services.close()
    assert site.rows("SELECT count(*) FROM requests") == [(30,)]
    assert len(folder(site, "Done")) == 30
    assert folder(site, "Running") == []
    assert folder(site, "Failed") == []


def test_a_name_that_comes_again_is_another_file(site: Site) -> None:
    """An agent that once saw a file never ends another one that came under its name later."""
    put(site, "a.fits", "b.fits")
    slow = ImportAgent(Services(site.config))
    drop(site, "night.xml", request_text("a.fits"))
    slow.run_once()
    site.once(*ALL)  # another agent ended it
    assert folder(site, "Done") == ["night.xml"]
    drop(site, "night.xml", request_text("b.fits"))
    site.once("import")
    slow.run_once()
    assert folder(site, "Running") == ["night.xml"]
    assert folder(site, "Done") == ["night.xml"]
    site.once("transfer")
    slow.run_once()
    assert folder(site, "Done") == ["night.2.xml", "night.xml"]
    slow.close()
    slow.services.close()


def test_a_done_file_can_be_dropped_again(site: Site) -> None:
    """The annotated file is a request file: dropped again it is the same request, Done already."""
    put(site, "a.fits")
    drop(site, "night.xml", request_text("a.fits"))
    site.once(*ALL)
    done = (site.config.spool.folder / "Done/night.xml").read_text()
    drop(site, "again.xml", done)
    site.once("import")
    assert folder(site, "Done") == ["again.xml", "night.xml"]
    assert site.rows("SELECT count(*) FROM requests") == [(1,)]
    assert site.rows("SELECT count(*) FROM attempts") == [(1,)]


def test_one_file_that_cannot_be_moved_does_not_hold_back_the_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An I/O error with one file is logged; the next file is imported."""
    drop(site, "a.xml", request_text("a.fits"), age=20)
    drop(site, "b.xml", request_text("b.fits"))
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == "a.xml":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    assert site.once("import") == {"imported": 1}
    assert folder(site, "ToDo") == ["a.xml"]


def test_a_running_agent_watches_the_spool(site: Site) -> None:
    """With all agents in one process a dropped file goes its way to Done/ by itself."""
    put(site, "a.fits")
    process = site.start()
    try:
        until(lambda: (site.config.spool.folder / "Failed").exists(), 20, site.log)
        drop(site, "night.xml", request_text("a.fits"))
        until(lambda: folder(site, "Done") == ["night.xml"], 20, site.log)
        process.terminate()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
