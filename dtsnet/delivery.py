"""The files of a session at the sender: what is said of each, and what its answers lead to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dtscore.errors import DtsError, ProtocolError, SourceChangedError, TransferCorruptedError
from dtsnet.frames import LONGEST_CHUNK, SMALL, Frame, Kind, Stream, write_fields
from dtsnet.journal import MOST
from dtsnet.outgoing import Outgoing, SendingFile, Sent, read_sum
from dtsnet.reasons import word
from dtsnet.slot import source_changed
from dtsnet.sums import ChunkSum, combine, entries, sum_of, sum_of_zeros
from dtsnet.work import Piece, Work

_DAMAGED = 20
"""Pieces of one file that may come damaged before it is given up."""


class Delivery:
    """Says what is to be said of pieces, over whichever connection, and takes the answers, from whichever."""

    def __init__(self, files: Iterable[Outgoing], chunk: Callable[[], int], pace: Callable[[int], None] | None) -> None:
        """`chunk` tells how long the next piece is to be, in bytes; `pace` waits until bytes may go."""
        self.work = Work(self._supply(files))
        self._chunk = chunk
        self._pace = pace
        self._files: dict[int, SendingFile] = {}
        self._ended: dict[int, Sent] = {}

    @property
    def ended(self) -> list[Sent]:
        """How the files ended that have ended so far, in their order."""
        return [self._ended[number] for number in sorted(self._ended)]

    def close(self) -> None:
        """Close all files."""
        for file in list(self._files.values()):
            file.end()

    def _supply(self, files: Iterable[Outgoing]) -> Iterator[Piece]:
        for number, outgoing in enumerate(files):
            try:
                outgoing.path.encode()
                file = SendingFile(number, outgoing)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                self._ended[number] = Sent(
                    outgoing.path, 0, {}, 0, "source", f"{outgoing.path!r}: {reason}", "see the source file"
                )
                continue
            except DtsError as error:
                self._ended[number] = Sent(outgoing.path, 0, {}, 0, word(error), error.message, error.hint)
                continue
            self._files[number] = file
            yield Piece(
                Kind.WHOLE if file.size <= SMALL else Kind.OPEN, file, 0, file.size if file.size <= SMALL else 0
            )

    # what goes out

    def send(self, stream: Stream, piece: Piece, buffer: memoryview) -> None:
        """Say a piece; `buffer` is for reading files. Raises StreamLostError."""
        file = piece.file
        if piece.kind is Kind.ASK:
            stream.send(Kind.ASK, file.number, piece.offset)
        elif piece.kind is Kind.HOLE:
            file.note(sum_of_zeros(piece.offset, piece.length))
            stream.send(Kind.HOLE, file.number, piece.offset, piece.length.to_bytes(8, "big"))
        elif piece.kind is Kind.OPEN:
            stream.send(Kind.OPEN, file.number, 0, write_fields({**file.description(), "anyway": file.anyway}))
        elif piece.kind is Kind.END and file.failure is not None:
            stream.send(Kind.END, file.number, 0, write_fields({"changed": True}))
        elif file.outgoing.folder:
            self._send_content(stream, file, buffer[:0], changed=False)
        else:
            self._read_and_send(stream, piece, buffer)

    def _read_and_send(self, stream: Stream, piece: Piece, buffer: memoryview) -> None:
        file = piece.file
        try:
            descriptor = file.open()
        except OSError as error:
            self._end_badly(
                file, SourceChangedError(f"{file.outgoing.path!r}: {error.strerror}", "see the source file")
            )
            return
        except DtsError as error:
            self._end_badly(file, error)
            return
        if descriptor < 0:
            return
        try:
            if piece.kind is Kind.CHUNK:
                self._send_chunk(stream, piece, descriptor, buffer)
            elif piece.kind is Kind.WHOLE:
                self._send_whole(stream, file, descriptor, buffer)
            elif piece.kind is Kind.END:
                changed = not file.unchanged()
                sums = {} if changed else file.checksums()
                stream.send(Kind.END, file.number, 0, write_fields({"changed": changed, **sums}))
            else:
                self._compare(stream, file, descriptor, buffer)
        finally:
            file.let_go(close=piece.kind is Kind.WHOLE)

    def _send_chunk(self, stream: Stream, piece: Piece, descriptor: int, buffer: memoryview) -> None:
        file = piece.file
        chunk = read_sum(descriptor, piece.offset, piece.length, buffer)
        if chunk.length < piece.length:
            self._end_badly(file, source_changed(file.outgoing.path))
            return
        file.note(chunk)
        if file.held.pop(piece.offset, None) == chunk:
            file.resumed += piece.length
            self._got(file, piece.offset)
            return
        stream.send_chunk((file.number, piece.offset, piece.length), descriptor, chunk.crc32c, self._pace)

    def _send_whole(self, stream: Stream, file: SendingFile, descriptor: int, buffer: memoryview) -> None:
        view, filled = buffer[: file.size], 0
        while filled < len(view) and (count := os.preadv(descriptor, [view[filled:]], filled)):
            filled += count
        self._send_content(stream, file, view, changed=filled < len(view) or not file.unchanged())

    def _send_content(self, stream: Stream, file: SendingFile, view: memoryview, *, changed: bool) -> None:
        chunk = sum_of(view, 0)
        file.note(chunk)
        if self._pace is not None:
            self._pace(len(view))
        described = {**file.description(), "changed": changed, "crc32c": f"{chunk.crc32c:08x}"}
        stream.send_whole(file.number, write_fields(described), view)

    def _compare(self, stream: Stream, file: SendingFile, descriptor: int, buffer: memoryview) -> None:
        """The name is taken there: unless the same bytes have it, send them or have the file refused."""
        chunk = read_sum(descriptor, 0, file.size, buffer)
        sums = combine([chunk])
        same = chunk.length == file.size == file.there.get("size") and sums == {
            name: file.there.get(name) for name in sums
        }
        if not same and file.outgoing.overwrite:
            file.anyway = True
            self.work.drop(file.number, ended=False)
            self.work.add(Piece(Kind.OPEN, file))
            return
        file.note(chunk)
        file.resumed = file.size if same else 0
        stream.send(Kind.END, file.number, 0, write_fields({"changed": not file.unchanged(), **sums}))

    def _end_badly(self, file: SendingFile, error: DtsError) -> None:
        """A file cannot be sent on: where it is large, the receiver is told to throw away what came."""
        file.failure = error
        if file.size > SMALL:
            self.work.drop(file.number, ended=False)
            self.work.add(Piece(Kind.END, file))
        else:
            self._close_file(file, Sent(file.outgoing.path, file.size, {}, 0, word(error), error.message, error.hint))

    def _close_file(self, file: SendingFile, sent: Sent) -> None:
        self._ended[file.number] = sent
        self.work.drop(file.number)
        self._files.pop(file.number, None)
        file.end()

    # what comes back

    def answer(self, frame: Frame) -> None:
        """Take an answer; raises ProtocolError."""
        if not frame.intact:
            raise ProtocolError("a confirmation came damaged", "the network path is not to be trusted")
        file = self._files.get(frame.file)
        if frame.kind is Kind.PING or (file is None and frame.kind >= Kind.READY):
            return
        if file is None:
            raise ProtocolError(f"a {frame.kind.name} frame from a receiver", "both sides must run DTS")
        if frame.kind is Kind.GOT:
            self._got(file, frame.offset)
        elif frame.kind is Kind.AGAIN:
            self._again(file, frame.offset)
        elif frame.kind is Kind.KEPT:
            self._kept(file, frame)
        elif frame.kind is Kind.HELD:
            self._held(file, entries(frame.payload))
        elif frame.kind is Kind.THERE:
            self._there(file, frame.fields())
        elif frame.kind is Kind.READY:
            self._ready(file)
        else:
            self._filed(file, frame.kind, frame.fields())

    def _got(self, file: SendingFile, offset: int) -> None:
        piece = self.work.confirmed(file.number, offset, 1)
        if piece is not None:
            self._count(file, piece.length)

    def _count(self, file: SendingFile, length: int) -> None:
        if file.confirm(length):
            self.work.add(Piece(Kind.END, file))

    def _again(self, file: SendingFile, offset: int) -> None:
        if self.work.again(file.number, offset) is None:
            return
        file.damaged += 1
        if file.damaged > _DAMAGED:
            message = f"{file.outgoing.path!r}: {file.damaged} pieces came damaged"
            self._end_badly(file, TransferCorruptedError(message, "the network path is not to be trusted"))

    def _kept(self, file: SendingFile, frame: Frame) -> None:
        """Compare what the receiver has of a piece in doubt with the source, and have the rest sent."""
        piece = self.work.in_doubt(file.number, frame.offset)
        if piece is None:
            return
        kept = next(iter(entries(frame.payload)), None)
        if kept is None or not 0 < kept.length <= piece.length or kept.offset != piece.offset:
            self.work.kept(piece, 0, good=True)
            return
        ours = self._sum_again(file, kept)
        if ours == kept and kept.length == piece.length:
            self._got(file, piece.offset)
            return
        if ours == kept:
            file.note(ours)
        self.work.kept(piece, kept.length, good=ours == kept)
        if ours == kept:
            self._count(file, kept.length)

    @staticmethod
    def _sum_again(file: SendingFile, kept: ChunkSum) -> ChunkSum | None:
        try:
            descriptor = file.open()
        except (OSError, DtsError):
            return None  # whoever sends the piece again meets the same, and ends the file
        if descriptor < 0:
            return None
        try:
            return read_sum(descriptor, kept.offset, kept.length, memoryview(bytearray(min(kept.length, SMALL))))
        finally:
            file.let_go()

    @staticmethod
    def _held(file: SendingFile, held: list[ChunkSum]) -> None:
        """Keep what an attempt before has left at the receiver; each piece is compared with the source in its turn."""
        for entry in held:
            if not 0 < entry.length <= LONGEST_CHUNK or entry.offset + entry.length > file.size:
                raise ProtocolError("pieces that the file does not have", "both sides must run DTS")
            file.held[entry.offset] = entry
        if len(file.held) > MOST:
            raise ProtocolError(f"more than {MOST} pieces of one file", "both sides must run DTS")

    def _ready(self, file: SendingFile) -> None:
        piece = self.work.confirmed(file.number, 0, 0)
        if piece is None or piece.kind is not Kind.OPEN:
            return
        pieces = file.pieces(self._chunk)
        self.work.add_chunks(
            file.number,
            (Piece(Kind.HOLE if hole else Kind.CHUNK, file, offset, length) for offset, length, hole in pieces),
        )

    def _there(self, file: SendingFile, fields: dict[str, Any]) -> None:
        piece = self.work.confirmed(file.number, 0, 0)
        if piece is not None and piece.kind is Kind.OPEN:
            file.there = fields
            self.work.add(Piece(Kind.THERE, file))

    def _filed(self, file: SendingFile, kind: Kind, fields: dict[str, Any]) -> None:
        path = file.outgoing.path
        self.work.confirmed(file.number, 0, 0)
        if kind is Kind.REFUSED:
            words = [str(fields.get(key, ""))[:4000] for key in ("class", "message", "hint")]
            if file.failure is not None:
                words = [word(file.failure), file.failure.message, file.failure.hint]
            self._close_file(file, Sent(path, file.size, {}, file.resumed, words[0] or "refused", words[1], words[2]))
            return
        try:
            sums = {} if file.outgoing.folder else file.checksums()
        except ValueError as error:
            raise ProtocolError(
                f"{path!r} is said to have landed, and was not sent", "both sides must run DTS"
            ) from error
        self._close_file(file, Sent(path, file.size, sums, file.resumed))
