"""The replica manager: put-and-register, replicate, register, verify, remove and get, for all agents alike.

Nothing reaches a storage element but through here, and nothing here writes state: what the catalog is to write
stands in the attempt's `changes`, and goes into the transaction that ends the file.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from agents.attempt import INTERRUPTIONS, Achieved, Attempt, caught
from agents.expectations import (
    blame,
    compare_checksum,
    compare_size,
    expected_checksums,
    expected_size,
    may_have_changed,
    refuse_changed,
    refuse_conflict,
)
from agents.queue_ways import wishes
from catalog.metadata import harvest
from catalog.records import Entry, Registration
from dtscore.checksums import Checksum, parse
from dtscore.config import Config
from dtscore.errors import (
    ConfigurationError,
    FileMissingError,
    NoGoodSourceError,
    Scope,
    SizeMismatchError,
    SourceChangedError,
    UnsupportedError,
    WorkError,
)
from dtscore.names import default_pfn
from storage.batch import land_many
from storage.element import FileStat, StorageElement
from storage.file import FileElement
from storage.landing import Landed, Landing, LandingJob, land
from storage.registry import Elements

DEFAULT_CHECKSUM = "adler32"
_CHUNK = 1 << 20
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Source:
    """A place to read a file from; `replica` says that the catalog knows it."""

    element: str
    pfn: str
    replica: bool


class ReplicaManager:
    """Works on replicas for the agents; safe to use from many threads."""

    def __init__(self, elements: Elements, config: Config) -> None:
        """Keep the storage elements and the site's settings; the cache folder is made when first used."""
        self.elements = elements
        self._config = config

    def element(self, name: str, queue: str = "") -> StorageElement:
        """Return a storage element, as a queue wishes it; one that this site does not know is a permanent error."""
        try:
            return self.elements.get(name, wishes(self._config, name, queue))
        except ConfigurationError as error:
            hint = f"{error.hint}; or, if it is new in dts.ini, restart the agents: they read it when they start"
            raise UnsupportedError(error.message, hint, element=name) from error

    def transfer(self, attempt: Attempt) -> Achieved:
        """Copy a file to the attempt's target from the best source that is good, verified, landed, to be registered.

        A source that turns out bad is skipped, marked Suspect and reported. Raises WorkError.
        """
        refuse_conflict(attempt)
        return self._from_best(attempt, self.sources(attempt), [])

    def _from_best(self, attempt: Attempt, sources: Sequence[Source], errors: list[WorkError]) -> Achieved:
        """Copy from the first source that is good; `errors` are those of the sources tried before."""
        target = self.element(attempt.file.target, attempt.file.operation.queue)
        for source in sources:
            try:
                landed = self._land(attempt, source, target)
            except INTERRUPTIONS:
                raise
            except WorkError as error:
                self._skip(attempt, source, error)
                errors.append(error)
                continue
            return self._landed(attempt, source, landed)
        raise _worst(attempt, errors)

    def transfer_many(self, attempts: Sequence[Attempt]) -> list[Achieved | Exception | None]:
        """Copy files to their one target, together as far as they are small and their elements give batches.

        Returns how each ended, as `transfer` does, or None: it was not begun. The first one always ends.
        """
        endings: list[Achieved | Exception | None] = [None] * len(attempts)
        together: list[tuple[int, Source, Landing]] = []
        for number, attempt in enumerate(attempts):
            try:
                planned = self._plan(attempt)
            except Exception as error:
                endings[number] = error
                continue
            if planned is None:
                break
            together.append((number, *planned))
        if not together and endings[0] is None:
            endings[0] = caught(lambda: self.transfer(attempts[0]))
        landed = land_many([landing for _, _, landing in together])
        for (number, source, _), ending in zip(together, landed, strict=True):
            endings[number] = self._ending(attempts[number], source, ending)
        return endings

    def _plan(self, attempt: Attempt) -> tuple[Source, Landing] | None:
        """Return how a file would land in a batch; None where it must land alone."""
        refuse_conflict(attempt)
        target, sources = self.element(attempt.file.target, attempt.file.operation.queue), self.sources(attempt)
        if not sources or not target.batches or not self._direct(sources[0].element, target.name):
            return None
        origin = self._source_element(sources[0].element)
        if not origin.batches or may_have_changed(attempt, origin, sources[0].pfn):
            return None
        job = self._job(attempt, origin, sources[0].pfn, target, default_pfn(attempt.file.lfn))
        return sources[0], Landing(job, attempt.guard, attempt.progress)

    def _ending(
        self, attempt: Attempt, source: Source, ending: Landed | Exception | None
    ) -> Achieved | Exception | None:
        """Return what a landing comes to; the other sources are tried where this one was at fault."""
        if isinstance(ending, Landed):
            return dataclasses.replace(self._landed(attempt, source, ending), seconds=None)  # its part of all counts
        if isinstance(ending, WorkError) and ending.scope is Scope.SOURCE and not isinstance(ending, INTERRUPTIONS):
            self._skip(attempt, source, ending)
            error = ending
            return caught(lambda: self._from_best(attempt, self.sources(attempt)[1:], [error]))
        return ending

    def sources(self, attempt: Attempt) -> list[Source]:
        """Return where the file may be read from, best first: the named source, then the catalog's replicas."""
        file, found = attempt.file, []
        known = {replica.element: replica for replica in (attempt.entry.sources if attempt.entry else ())}
        named = file.operation.source
        if named:
            replica = known.get(named)
            pfn = file.pfn or (replica.pfn if replica else default_pfn(file.lfn))
            found.append(Source(named, pfn, replica is not None and replica.pfn == pfn))
        for element, replica in known.items():
            if element not in (named, file.target) and self._here(element):
                found.append(Source(element, replica.pfn, True))
        return found

    def _here(self, element: str) -> bool:
        """Whether this node can reach an element: one that is pinned to another node is no source."""
        settings = self._config.elements.get(element)
        return settings is None or settings.options.get("node", "") in ("", self._config.site.node)

    def _source_element(self, name: str) -> StorageElement:
        try:
            return self.element(name)
        except WorkError as error:
            error.scope = Scope.SOURCE
            raise

    def _land(self, attempt: Attempt, source: Source, target: StorageElement) -> Landed:
        origin = self._source_element(source.element)
        refuse_changed(attempt, origin, source.pfn)
        if self._direct(source.element, target.name):
            return self._copy(attempt, origin, source.pfn, target, default_pfn(attempt.file.lfn))
        return self._two_hops(attempt, origin, source.pfn, target)

    def _direct(self, source: str, target: str) -> bool:
        """Whether bytes may stream from one element to the other without the local cache (option `direct`)."""
        settings = (self._config.elements.get(name) for name in (source, target))
        return all(one is None or one.options.get("direct", "yes") != "no" for one in settings)

    def _two_hops(self, attempt: Attempt, origin: StorageElement, pfn: str, target: StorageElement) -> Landed:
        """Copy through the local cache, under the attempt's own name: no two attempts can meet there."""
        folder = self._config.cache.folder
        folder.mkdir(parents=True, exist_ok=True)
        cache = FileElement("cache", str(folder))
        cached = f"{attempt.name}.cached"
        try:
            first = self._copy(attempt, origin, pfn, cache, cached)
            return self._copy(attempt, cache, cached, target, default_pfn(attempt.file.lfn), proven=first)
        finally:
            _remove_cached(folder / cached)

    def _copy(
        self,
        attempt: Attempt,
        origin: StorageElement,
        pfn: str,
        target: StorageElement,
        path: str,
        proven: Landed | None = None,
    ) -> Landed:
        job = self._job(attempt, origin, pfn, target, path, proven)
        return land(job, guard=attempt.guard, progress=attempt.progress)

    def _job(
        self,
        attempt: Attempt,
        origin: StorageElement,
        pfn: str,
        target: StorageElement,
        path: str,
        proven: Landed | None = None,
    ) -> LandingJob:
        expected = expected_checksums(attempt)
        if proven is not None:
            expected = tuple(str(Checksum(name, value)) for name, value in proven.checksums.items())
        return LandingJob(
            source=origin, source_path=pfn, target=target, target_path=path, attempt=attempt.name,
            algorithms=(self.algorithm(attempt),), size=proven.size if proven else expected_size(attempt),
            checksums=expected, overwrite=attempt.overwrite,
        )  # fmt: skip

    def algorithm(self, attempt: Attempt) -> str:
        """Return the checksum to compute: the request's choice, else what is declared or known, else the target's."""
        chosen = attempt.file.operation.options.get("checksum")
        declared = attempt.file.checksum or (attempt.entry.checksum if attempt.entry else None)
        if chosen or declared:
            return chosen or parse(declared or "").algorithm
        settings = self._config.elements.get(attempt.file.target)
        return settings.options.get("checksum", DEFAULT_CHECKSUM) if settings else DEFAULT_CHECKSUM

    def _skip(self, attempt: Attempt, source: Source, error: WorkError) -> None:
        """Leave a bad source for the next one; raises the error where it is not the source's."""
        if error.scope is not Scope.SOURCE:
            raise error
        log.warning("bad source skipped", lfn=attempt.file.lfn, source=source.element, error=error.message)
        if source.replica and source.element in self._config.elements and blame(error):
            attempt.changes.marks.append((attempt.file.lfn, source.element, "Suspect", error.message))

    def _landed(self, attempt: Attempt, source: Source, landed: Landed) -> Achieved:
        checksum = self._registered_checksum(attempt, landed)
        attempt.changes.registrations.append(
            Registration(
                lfn=attempt.file.lfn, size=landed.size, checksum=checksum, element=attempt.file.target,
                pfn=default_pfn(attempt.file.lfn), depth=landed.depth, metadata=harvest(landed.head),
                replace=attempt.overwrite,
            )
        )
        moved = landed.size if landed.moved else 0
        return Achieved(landed.size, checksum, moved, source.element, landed.protocol, landed.seconds)

    def _registered_checksum(self, attempt: Attempt, landed: Landed) -> str:
        """Keep the catalog's checksum where its algorithm was computed, so that an entry never changes its mind."""
        known = attempt.entry.checksum if attempt.entry and not attempt.overwrite else None
        algorithm = parse(known).algorithm if known else self.algorithm(attempt)
        return str(Checksum(algorithm, landed.checksums[algorithm]))

    def register(self, attempt: Attempt) -> Achieved:
        """Register a file that lies on the target already, after reading it whole; raises WorkError."""
        refuse_conflict(attempt)
        file = attempt.file
        pfn = file.pfn or default_pfn(file.lfn)
        element = self.element(file.target)
        before = element.stat(pfn)
        compare_size(attempt, element.name, size := before.size)
        expected = expected_checksums(attempt)
        wanted = {parse(text).algorithm for text in expected} | {self.algorithm(attempt)}
        found = self.digest(attempt, element, pfn, before, wanted)
        for text in expected:
            compare_checksum(attempt, element.name, text, found[parse(text).algorithm])
        known = attempt.entry.checksum if attempt.entry else found[self.algorithm(attempt)]
        head = read_head(element, pfn)
        attempt.changes.registrations.append(
            Registration(file.lfn, size, known, element.name, pfn, "full", harvest(head))
        )
        return Achieved(size, known, protocol=element.protocol)

    def verify(self, attempt: Attempt) -> Achieved:
        """Read replicas again and compare them with the catalog: that on the target, or all; raises WorkError.

        A good one is noted as verified in full; one that is missing or differs is marked Bad. The one verified longest
        ago comes first: after an outage its probe does not read all the others again.
        """
        entry, file = attempt.entry, attempt.file
        if entry is None:
            raise FileMissingError(f"{file.lfn} is not in the catalog", "register it first", scope=Scope.FILE)
        replicas = [r for r in entry.replicas if file.target in ("", r.element) and r.state != "Deleting"]
        if not replicas:
            where = file.target or "any storage element"
            raise FileMissingError(f"the catalog knows no replica of {file.lfn} on {where}", "see dts-catalog replicas")
        errors = []
        for replica in sorted(replicas, key=lambda one: one.verified_at.timestamp() if one.verified_at else 0.0):
            try:
                self.prove(attempt, entry, replica.element, replica.pfn)
            except INTERRUPTIONS:
                raise
            except WorkError as error:
                if not error.permanent:
                    raise
                errors.append(error)
                if state := blame(error):
                    attempt.changes.marks.append((file.lfn, replica.element, state, error.message))
            else:
                attempt.changes.verified.append((file.lfn, replica.element, "full"))
        if errors:
            raise errors[0]
        return Achieved(entry.size, entry.checksum)

    def prove(self, attempt: Attempt, entry: Entry, element_name: str, pfn: str) -> None:
        """Read one replica whole and compare it with the catalog's size and checksum; raises WorkError."""
        element = self.element(element_name)
        before = element.stat(pfn)
        if before.size != entry.size:
            raise SizeMismatchError(
                f"{pfn} on {element_name} has {before.size} bytes, not {entry.size}", "replicate it again",
                element=element_name,
            )  # fmt: skip
        algorithm = parse(entry.checksum).algorithm
        found = self.digest(attempt, element, pfn, before, {algorithm})[algorithm]
        compare_checksum(attempt, element_name, entry.checksum, found)

    def digest(
        self, attempt: Attempt, element: StorageElement, pfn: str, before: FileStat, algorithms: Collection[str]
    ) -> dict[str, str]:
        """Return checksums by algorithm of what lies on an element, read once, the attempt's guard asked on the way.

        Raises SourceChangedError unless the file was `before`, and all the time, what it is afterwards.
        """

        def tick(bytes_so_far: int) -> None:
            attempt.progress(bytes_so_far)
            attempt.guard()

        found = element.digest(pfn, sorted(algorithms), tick)
        after = element.stat(pfn)
        if after != before or found.size != before.size:
            raise SourceChangedError(
                f"{pfn} on {element.name} changed while it was read: {before.size} bytes before, {found.size} read, "
                f"{after.size} after",
                "let whoever writes it finish first", element=element.name,
            )  # fmt: skip
        return {name: str(Checksum(name, value)) for name, value in found.checksums.items()}

    def get(self, entry: Entry, folder: Path, name: str) -> Path:
        """Fetch a file of the catalog into a local folder, verified; any good replica, best first; raises WorkError."""
        target = FileElement("download", str(folder))
        errors: list[WorkError] = []
        for replica in entry.sources:
            try:
                job = LandingJob(
                    source=self._source_element(replica.element), source_path=replica.pfn, target=target,
                    target_path=name, attempt=f"get-{time.monotonic_ns()}", algorithms=(), size=entry.size,
                    checksums=(entry.checksum,), overwrite=False,
                )  # fmt: skip
                land(job, guard=lambda: None, progress=lambda _: None)
            except WorkError as error:
                if error.scope is not Scope.SOURCE:
                    raise
                errors.append(error)
            else:
                return folder / name
        raise errors[0] if errors else NoGoodSourceError(f"{entry.lfn} has no good replica", "see dts-catalog replicas")


def read_head(element: StorageElement, pfn: str, length: int = 288_000) -> bytes:
    """Return the first bytes of a file, for its headers."""
    buffer = bytearray(length)
    view, filled = memoryview(buffer), 0
    reader = element.open(pfn)
    try:
        while filled < length and (count := reader.readinto(view[filled:])):
            filled += count
    finally:
        reader.close()
    return bytes(view[:filled])


def _worst(attempt: Attempt, errors: Sequence[WorkError]) -> WorkError:
    """Return what to tell when no source was good: a temporary error if there is one, since it may pass."""
    if not errors:
        return NoGoodSourceError(
            f"{attempt.file.lfn} has no source: none is named and the catalog knows no good replica",
            f"see dts-catalog replicas {attempt.file.lfn}",
        )
    return next((error for error in errors if not error.permanent), errors[0])


def _remove_cached(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("a file stays in the cache", path=str(path), error=str(error))
