"""The independent checker: what was sent, what lies on the disks and what the database says must be one story.

It shares no code with the rest of DTS on purpose, so that a mistake there cannot hide itself here: it reads the drill's
manifest (JSON), the storage folders (os.walk) and the database (sqlite3 or psycopg, plain SQL), and nothing else.
Run it by itself with `python -m dtsd.drills.checker MANIFEST`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

_TEMPORARY = re.compile(r"\..*\.[A-Za-z0-9-]{1,64}\.part(\.journal)?\Z")
_BLOCK = 1 << 20

_FILES = """
SELECT f.id, f.lfn, c.target, f.state, f.attempts, f.error_class FROM files f JOIN channels c ON c.id = f.channel_id
JOIN operations o ON o.id = f.operation_id WHERE o.type = 'transfer'"""
_REPLICAS = """
SELECT d.path, f.name, f.size, f.checksum, r.element, r.pfn, r.state
FROM catalog_replicas r JOIN catalog_files f ON f.id = r.file_id JOIN catalog_folders d ON d.id = f.folder_id"""
_ACCOUNTED = "SELECT file_id, attempt, final_status FROM accounting_attempts"
_ATTEMPTS = "SELECT file_id, attempt, outcome FROM attempts"
_COUNTED = "SELECT id, queued, todo, running, done, failed, cancelled FROM requests"
_STATES = "SELECT request_id, state, count(*) FROM files GROUP BY request_id, state"
_WORDS = ("queued", "todo", "running", "done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be: `kind` is lost, duplicated, partial, misregistered, miscounted or refused."""

    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@dataclass(frozen=True, slots=True)
class _Content:
    size: int
    sha256: str
    adler32: str


def check(manifest: Path, *, ended: bool = True) -> list[Finding]:
    """Return everything that is wrong; `ended` says that all work is over, so that nothing may be waiting any more."""
    return _Check(json.loads(manifest.read_text(encoding="utf-8")), ended).run()


def temporaries(root: Path) -> list[str]:
    """Return the landings' temporary files below a root: allowed after a kill, but worth a look."""
    return [name for _, name in _walk(root) if _TEMPORARY.match(name)]


class _Check:
    """One check: everything is read first, and then compared."""

    def __init__(self, manifest: Mapping[str, Any], ended: bool) -> None:
        self.ended = ended
        self.findings: list[Finding] = []
        self.roots = {name: Path(root) for name, root in manifest["roots"].items()}
        self.expected = {(one["lfn"], one["target"]): one for one in manifest["files"]}
        self.acknowledged = {(lfn, target) for lfn, target in manifest.get("acknowledged", [])}
        with closing(_connect(manifest["database"])) as connection:
            ask = _asker(connection)
            self.files = ask(_FILES)
            self.replicas = ask(_REPLICAS)
            self.accounted = ask(_ACCOUNTED)
            self.attempts = ask(_ATTEMPTS)
            self.counted = ask(_COUNTED)
            self.states = ask(_STATES)
        self.there = {
            name: {path: _content(root / path) for path, base in _walk(root) if not _TEMPORARY.match(base)}
            for name, root in self.roots.items()
        }

    def run(self) -> list[Finding]:
        self._check_sources()
        self._check_rows()
        self._check_folders()
        self._check_catalog()
        self._check_accounting()
        self._check_counts()
        return self.findings

    def _say(self, kind: str, what: str) -> None:
        self.findings.append(Finding(kind, what))

    def _check_sources(self) -> None:
        """A transfer is a copy: the file that was sent is still there, byte for byte."""
        for one in self.expected.values():
            found = self.there[one["source"]].get(one["source_pfn"])
            if found is None:
                self._say("lost", f"{one['source_pfn']} vanished from its source")
            elif found.sha256 != one["source_sha256"]:
                self._say("partial", f"{one['source_pfn']} was changed at its source")

    def _check_rows(self) -> None:
        """Each file that was asked for has a row, and it ended as it must."""
        rows = defaultdict(list)
        for _id, lfn, target, state, _attempts, error in self.files:
            rows[lfn, target].append((state, error))
        for key, one in self.expected.items():
            found = rows.get(key, [])
            if len(found) < one.get("asked", 1):
                self._say("lost", f"{key} has {len(found)} rows in the database, {one.get('asked', 1)} were submitted")
            for state, error in found:
                self._check_state(key, one, state, error)
        for key in rows.keys() - self.expected.keys():
            self._say("duplicated", f"{key} was never asked for")
        for key in self.acknowledged:
            if "Done" not in [state for state, _ in rows.get(key, [])]:
                self._say("lost", f"{key} was seen Done and is {rows.get(key)} now")

    def _check_state(self, key: tuple[str, str], one: Mapping[str, Any], state: str, error: str) -> None:
        if one["refused"] and state == "Done":
            self._say("refused", f"{key} must be refused, but is Done")
        elif self.ended and not one["refused"] and state != "Done" and state not in one.get("also", ()):
            self._say("lost", f"{key} is {state} ({error}) and not Done")
        elif self.ended and one["refused"] and state != "Failed":
            self._say("refused", f"{key} must be refused, but is {state}")

    def _check_folders(self) -> None:
        """Under a final name stands the whole file or nothing; nothing stands under a name that nobody asked for."""
        done = {(lfn, target) for _id, lfn, target, state, *_ in self.files if state == "Done"}
        wanted = {(one["target"], one["pfn"]): one for one in self.expected.values()}
        for element in {target for _, target in self.expected}:
            for pfn, content in self.there[element].items():
                self._check_file(element, pfn, content, wanted.get((element, pfn)))
        for (lfn, target) in done | self.acknowledged:
            one = self.expected.get((lfn, target))
            if one is not None and one["pfn"] not in self.there[target]:
                self._say("lost", f"{lfn} is Done, but is not on {target}")

    def _check_file(self, element: str, pfn: str, content: _Content, one: Mapping[str, Any] | None) -> None:
        if one is None:
            self._say("duplicated", f"{pfn} on {element} was never asked for")
        elif one["refused"]:
            self._say("refused", f"{pfn} stands on {element}, but must be refused")
        elif (content.size, content.sha256) != (one["size"], one["sha256"]) and not one.get("damaged"):
            self._say("partial", f"{pfn} on {element} has {content.size} bytes, not the right {one['size']}")

    def _check_catalog(self) -> None:
        """What is registered as Good is there and right; what is Done is registered, once."""
        good = set()
        seen: Counter[tuple[str, str]] = Counter()
        for folder, name, size, checksum, element, pfn, state in self.replicas:
            lfn = f"{folder.rstrip('/')}/{name}"
            seen[lfn, element] += 1
            if state == "Good":
                good.add((lfn, element))
                self._check_replica((lfn, element), pfn, size, checksum)
        for key, number in seen.items():
            if number > 1:
                self._say("duplicated", f"{key} is registered {number} times")
        done = {(lfn, target) for _id, lfn, target, state, *_ in self.files if state == "Done"}
        for key in done - good:
            if not self.expected.get(key, {}).get("damaged"):
                self._say("misregistered", f"{key} is Done without a good replica")
        for key in good - done:
            self._say("misregistered", f"{key} is registered as good, but no transfer of it is Done")

    def _check_replica(self, key: tuple[str, str], pfn: str, size: int, checksum: str) -> None:
        content = self.there.get(key[1], {}).get(pfn)
        one = self.expected.get(key)
        if content is None or one is None:
            self._say("misregistered", f"{key} is registered as good, but its file {pfn} is not there")
            return
        right = (one["size"], f"adler32:{one['adler32']}")
        if (size, checksum) != right:
            self._say("misregistered", f"{key} is registered with {size} bytes and {checksum}, not with {right}")
        if (content.size, content.sha256) != (one["size"], one["sha256"]):
            self._say("misregistered", f"{key} is registered as good, but its bytes are not those that were sent")

    def _check_accounting(self) -> None:
        """Each file that is Done is accounted for once as Done; no attempt is accounted for twice."""
        each = Counter((file, attempt) for file, attempt, _ in self.accounted)
        ended = Counter(file for file, _, status in self.accounted if status == "Done")
        outcomes = Counter(file for file, _, outcome in self.attempts if outcome == "Done")
        for key, number in each.items():
            if number > 1:
                self._say("duplicated", f"attempt {key} is accounted for {number} times")
        for number_of, lfn, _target, state, *_ in self.files:
            wanted = int(state == "Done")
            for table, counts in (("accounting", ended), ("attempts", outcomes)):
                if counts[number_of] != wanted:
                    kind = "duplicated" if counts[number_of] > wanted else "misregistered"
                    self._say(kind, f"{lfn} is {state}, but has {counts[number_of]} Done rows in {table}")
        for file, attempt, outcome in self.attempts:
            if not each[file, attempt]:
                self._say("miscounted", f"attempt {attempt} at file {file} ({outcome}) is not accounted for")

    def _check_counts(self) -> None:
        """The counts that requests keep are those of their files."""
        real = {(request, state.lower()): number for request, state, number in self.states}
        for request, *counts in self.counted:
            found = [real.get((request, word), 0) for word in _WORDS]
            if found != list(counts):
                self._say("miscounted", f"request {request} counts {counts}, its files are {found}")


def _walk(root: Path) -> Iterator[tuple[str, str]]:
    """Give path below the root and base name of every file, without the trash."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != ".trash"]
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), root), name


def _content(path: Path) -> _Content:
    sha256, adler32, size = hashlib.sha256(), 1, 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            sha256.update(block)
            adler32 = zlib.adler32(block, adler32)
            size += len(block)
    return _Content(size, sha256.hexdigest(), f"{adler32:08x}")


def _connect(url: str) -> Any:
    if url.startswith("sqlite:///"):
        return sqlite3.connect(f"file:{url.removeprefix('sqlite:///')}?mode=ro", uri=True, timeout=30)
    return psycopg.connect(url.replace("+psycopg", ""), connect_timeout=10)


def _asker(connection: Any) -> Callable[[str], list[tuple[Any, ...]]]:
    """Return what answers queries from one state of the database: agents may be at work meanwhile."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("BEGIN")
    else:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

    def ask(query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in connection.execute(query).fetchall()]

    return ask


def main() -> int:
    """Check the manifest that the command line names; exit code 1 if anything is wrong."""
    findings = check(Path(sys.argv[1]))
    for finding in findings:
        sys.stdout.write(f"{finding}\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
