"""The receiving side of a session: takes frames from several connections and has whole, verified files landed.

A piece is confirmed when it is written; a file when all its pieces are there, their checksums give the file's, and the
place it goes to has made it durable and given it its name. What takes long (reading again what an attempt before has
left, making durable) is done beside the connections, which go on meanwhile.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import structlog

from dtscore.errors import DtsError, ProtocolError, SourceChangedError, StreamLostError, TransferCorruptedError
from dtsnet.arriving import ArrivingFile, Claim, Description, Incoming, Standing, Target, read_description
from dtsnet.frames import Frame, Kind, Stream, read_fields
from dtsnet.pulse import Pulse
from dtsnet.reasons import storage_error, words
from dtsnet.slot import Slot, source_changed
from dtsnet.sums import ChunkSum, RunningSum, sum_of, sum_of_zeros

__all__ = ["Description", "Incoming", "Receiver", "Standing", "Target"]

log = structlog.get_logger(__name__)

BATCH_FILES, BATCH_BYTES = 256, 8 * 1024 * 1024
"""Small files that are made durable together, at most."""

MOST_OPEN = 16
"""Large files that one session may have open."""

_REMEMBERED = 8192
"""Results of files that are kept in case the sender did not hear them; of one forgotten it sends the file again."""

_DRAINING = 10.0
"""Seconds that the disk has for what came on connections that were broken off."""

_Result = tuple[Kind, bytes]
_Small = tuple[int, Description, memoryview]


class Receiver:
    """One session: any number of connections, each served by a thread of its caller's."""

    def __init__(self, target: Target) -> None:
        """Begin with no file open."""
        self._target = target
        self._slots: dict[int, Slot] = {}
        self._results: OrderedDict[int, _Result | None] = OrderedDict()
        self._serving: dict[int, Stream] = {}
        self._active: set[Stream] = set()
        self._jobs: set[threading.Thread] = set()
        self._changed = threading.Condition()
        self._pulse = Pulse()
        self._over = False
        self.bytes_received = 0
        self.wanted = 1

    def wait_wanted(self, number: int, seconds: float) -> bool:
        """Wait until the sender would like a connection of this number; whether it does."""
        with self._changed:
            return self._changed.wait_for(lambda: self.wanted > number, seconds)

    def serve(self, stream: Stream) -> bool:
        """Serve one connection until the sender says that nothing more will come on it, or it breaks.

        Returns True for a goodbye, False if it was just closed between two frames. An earlier connection of the same
        number is broken off, and what still came on it is taken in before this one begins.
        Raises ProtocolError and StreamLostError.
        """
        small: list[_Small] = []
        try:
            self._enter(stream)
            while (frame := stream.receive()) is not None and frame.kind is not Kind.BYE:
                if frame.kind is Kind.WHOLE:
                    self._whole(stream, frame, small)
                    if (
                        len(small) < BATCH_FILES
                        and sum(len(one[2]) for one in small) < BATCH_BYTES
                        and stream.waiting()
                    ):
                        continue
                self._land(stream, small)
                if frame.kind is Kind.CHUNK:
                    self._chunk(stream, frame)
                elif frame.kind is not Kind.WHOLE:
                    self._other(stream, frame)
            return frame is not None
        finally:
            try:
                self._land(stream, small)
            finally:
                self._leave(stream)

    def _enter(self, stream: Stream) -> None:
        with self._changed:
            earlier = self._serving.get(stream.number)
            self._serving[stream.number] = stream
            self._active.add(stream)
            if earlier is not None:
                earlier.abort()
            if self._over or not self._changed.wait_for(lambda: earlier not in self._active, stream.idle):
                raise StreamLostError("the connection before this one has not ended", "it is made anew")
        self._pulse.add(stream)

    def _leave(self, stream: Stream) -> None:
        self._pulse.remove(stream)
        with self._changed:
            self._active.discard(stream)
            if self._serving.get(stream.number) is stream:
                del self._serving[stream.number]
            self._changed.notify_all()

    # small files

    def _whole(self, stream: Stream, frame: Frame, small: list[_Small]) -> None:
        if not frame.intact:
            stream.send(Kind.AGAIN, frame.file)
            return
        length = int.from_bytes(frame.payload[:4], "big")
        fields = read_fields(frame.payload[4 : 4 + length])
        content = memoryview(bytes(frame.payload[4 + length :]))
        description = read_description(fields)
        if fields.get("changed"):
            self._end_with(stream, frame.file, source_changed(description.path))
        elif len(content) != description.size or fields.get("crc32c") != f"{sum_of(content, 0).crc32c:08x}":
            raise ProtocolError(f"{description.path!r} is not what its description says", "both sides must run DTS")
        elif self._is_new(stream, frame.file):
            small.append((frame.file, description, content))

    def _is_new(self, stream: Stream, number: int) -> bool:
        """Whether a small file comes for the first time; what has ended is told once more, on this connection."""
        with self._changed:
            if number not in self._results:
                self._remember(number, None)
                return True
            result = self._results[number]
        if result is not None:
            stream.send(result[0], number, 0, result[1])
        return False

    def _remember(self, number: int, result: _Result | None) -> None:
        self._results[number] = result
        while len(self._results) > _REMEMBERED:
            self._results.popitem(last=False)

    def _land(self, stream: Stream, small: list[_Small]) -> None:
        if not small:
            return
        batch = small[:]
        small.clear()
        errors = self._target.land([(description, content) for _, description, content in batch])
        results = [(Kind.FILED, b"{}") if error is None else (Kind.REFUSED, words(error)) for error in errors]
        with self._changed:
            for (number, _, content), result in zip(batch, results, strict=True):
                self._remember(number, result)
                self.bytes_received += len(content)
        for (number, _, _), (kind, payload) in zip(batch, results, strict=True):
            stream.send(kind, number, 0, payload)

    # pieces of large files

    def _chunk(self, stream: Stream, frame: Frame) -> None:
        slot = self._slot(frame.file)
        file = slot.file if slot is not None else None
        claim = file.claim(frame.offset, frame.length, frame.crc) if file is not None else None
        running = RunningSum(frame.offset)
        try:
            for block in stream.blocks():
                if claim is not None and file is not None:
                    file.write(claim, block, frame.offset + running.length)
                running.add(block)
        except StreamLostError:
            if claim is not None and file is not None:
                file.note(claim, running.sum())
            raise
        except OSError as error:
            if slot is not None:
                self._fail(slot, stream, storage_error(error, slot.description.path))
            return
        if file is not None:
            self._answer(stream, frame, file, claim, running.sum())

    def _answer(self, stream: Stream, frame: Frame, file: ArrivingFile, claim: Claim | None, chunk: ChunkSum) -> None:
        """Confirm a piece whose bytes have all come, or ask for it again."""
        if claim is not None and chunk.crc32c != frame.crc:
            file.give_up(claim)
        elif claim is not None and file.note(claim, chunk):
            with self._changed:
                self.bytes_received += chunk.length
        elif claim is not None and claim.revoked:
            return  # whoever came later with this piece answers for it
        there = file.kept(frame.offset)
        good = there is not None and there.length == frame.length
        stream.send(Kind.GOT if good else Kind.AGAIN, frame.file, frame.offset)

    def _slot(self, number: int) -> Slot | None:
        """Return a file that was opened, None if it has ended; raises ProtocolError if there was none."""
        with self._changed:
            slot = self._slots.get(number)
            if slot is None and number not in self._results:
                raise ProtocolError(f"bytes of file {number}, which was not opened", "both sides must run DTS")
        return slot

    def _other(self, stream: Stream, frame: Frame) -> None:
        if not frame.intact:
            raise ProtocolError(f"a {frame.kind.name} frame came damaged", "the network path is not to be trusted")
        if frame.kind is Kind.OPEN:
            self._open(stream, frame)
        elif frame.kind is Kind.HOLE:
            self._hole(stream, frame)
        elif frame.kind is Kind.END:
            self._end(stream, frame)
        elif frame.kind is Kind.ASK:
            self._tell(stream, frame)
        elif frame.kind is Kind.STREAMS:
            with self._changed:
                self.wanted = max(self.wanted, frame.offset)
                self._changed.notify_all()
        elif frame.kind is not Kind.PING:
            raise ProtocolError(f"a {frame.kind.name} frame from a sender", "both sides must run DTS")

    def _hole(self, stream: Stream, frame: Frame) -> None:
        slot = self._slot(frame.file)
        if slot is None or slot.file is None:
            return
        length = int.from_bytes(frame.payload, "big")
        if length > slot.description.size - frame.offset:
            raise ProtocolError(f"a hole beyond the end of {slot.description.path!r}", "both sides must run DTS")
        try:
            slot.file.hole(sum_of_zeros(frame.offset, length))
        except OSError as error:
            self._fail(slot, stream, storage_error(error, slot.description.path))
            return
        stream.send(Kind.GOT, frame.file, frame.offset)

    def _tell(self, stream: Stream, frame: Frame) -> None:
        """Say what is there of something whose confirmation the sender has not heard."""
        with self._changed:
            result = self._results.get(frame.file)
            slot = self._slots.get(frame.file)
        if result is not None:
            stream.send(result[0], frame.file, 0, result[1])
            return
        kept = slot.file.settle(frame.offset) if slot is not None and slot.file is not None else None
        stream.send(Kind.KEPT, frame.file, frame.offset, kept.packed() if kept is not None else b"")

    # opening and ending a large file

    def _open(self, stream: Stream, frame: Frame) -> None:
        fields = frame.fields()
        description = read_description(fields)
        with self._changed:
            result = self._results.get(frame.file)
            slot = self._slots.get(frame.file)
            if result is None and slot is None:
                if len(self._slots) >= MOST_OPEN:
                    raise ProtocolError(f"more than {MOST_OPEN} files are open", "both sides must run DTS")
                slot = self._slots[frame.file] = Slot(frame.file, description, stream)
        if slot is None:
            if result is not None:
                stream.send(result[0], frame.file, 0, result[1])
            return
        self._do(slot, stream, lambda: slot.prepare(self._target, anyway=fields.get("anyway") is True))

    def _end(self, stream: Stream, frame: Frame) -> None:
        fields = frame.fields()
        slot = self._slot(frame.file)
        if slot is not None:
            self._do(slot, stream, lambda: self._finish(slot, fields))
            return
        with self._changed:
            result = self._results.get(frame.file)
        if result is not None:
            stream.send(result[0], frame.file, 0, result[1])

    def _do(self, slot: Slot, stream: Stream, job: Callable[[], None]) -> None:
        """Have a thread do what may take long, after what it does already; the answer goes where it was last asked."""
        with slot.lock:
            slot.stream, slot.next = stream, job
            if slot.busy:
                return
            slot.busy = True
        thread = threading.Thread(target=self._work, args=(slot,), name=f"file-{slot.number}", daemon=True)
        with self._changed:
            if not self._over:
                self._jobs.add(thread)
                thread.start()

    def _work(self, slot: Slot) -> None:
        try:
            while True:
                with slot.lock:
                    job, slot.next = slot.next, None
                    slot.busy = job is not None
                if job is None:
                    return
                self._try(slot, job)
        finally:
            with self._changed:
                self._jobs.discard(threading.current_thread())

    def _try(self, slot: Slot, job: Callable[[], None]) -> None:
        path = slot.description.path
        with self._changed:
            result = None if slot.number in self._slots else self._results.get(slot.number)
        try:
            if result is not None:
                slot.stream.send(result[0], slot.number, 0, result[1])
            else:
                job()
        except StreamLostError:
            pass  # nobody hears the answer: it is asked for again on another connection
        except OSError as error:
            self._fail(slot, slot.stream, storage_error(error, path))
        except DtsError as error:
            self._fail(slot, slot.stream, error)
        except Exception as error:  # the sender waits for an answer, whatever happened
            log.exception("receiving a file broke off", path=path)
            self._fail(slot, slot.stream, DtsError(f"receiving {path!r}: {error}", "see the receiver's log"))

    def _finish(self, slot: Slot, fields: dict[str, Any]) -> None:
        slot.finish(self._target, fields)
        self._end_slot(slot, slot.stream, (Kind.FILED, b"{}"))

    def _fail(self, slot: Slot, stream: Stream, error: DtsError) -> None:
        """A large file will not land; bytes of which nothing good can come any more are thrown away."""
        log.info("a file is refused", path=slot.description.path, reason=error.message)
        hopeless = isinstance(error, (SourceChangedError, TransferCorruptedError))
        try:
            self._end_slot(slot, stream, (Kind.REFUSED, words(error)), discard=hopeless)
        except StreamLostError:
            pass  # it is asked for again on another connection

    def _end_slot(self, slot: Slot, stream: Stream, result: _Result, *, discard: bool = False) -> None:
        with self._changed:
            first = self._slots.pop(slot.number, None) is slot
            if first:
                self._remember(slot.number, result)
        if first:
            if slot.file is not None:
                slot.file.close(discard=discard)
            stream.send(result[0], slot.number, 0, result[1])

    def _end_with(self, stream: Stream, number: int, error: DtsError) -> None:
        result = (Kind.REFUSED, words(error))
        with self._changed:
            self._remember(number, result)
        stream.send(result[0], number, 0, result[1])

    def close(self) -> None:
        """End the session: files that are not whole stay under their temporary names, with their journals.

        Connections are broken off; what has come on them already is taken in.
        """
        with self._changed:
            self._over = True
            for stream in self._active:
                stream.abort()
            self._changed.wait_for(lambda: not self._active, _DRAINING)
            slots, jobs = list(self._slots.values()), list(self._jobs)
        for slot in slots:
            if slot.file is not None:
                slot.file.seal()
        for job in jobs:
            job.join()
        for slot in slots:
            if slot.file is not None:
                slot.file.close()
