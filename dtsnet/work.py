"""What a sender has to say, handed out to its streams: whoever is free takes the next piece.

A piece is done when the other side confirms it. Of what a broken stream had not had confirmed the receiver is asked
first: only what it does not have goes to the front of the queue. A stream with nothing left to take sends once more
what another one is slow with.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dtsnet.frames import Kind
from dtsnet.outgoing import SendingFile

_PATIENCE = 4.0
"""A piece is sent once more by an idle stream when it has taken so many times as long as the slower ones of late."""

_WINDOW = 1024
"""Pieces on their way at most, so that small files need not wait for each other's confirmation, nor fill memory."""

STREAM_WINDOW = 64 * 1024 * 1024
"""Bytes that one stream may have unconfirmed; what is really on the way is what TCP lets it be."""

MOST_OPEN = 4
"""Large files that are sent at the same time."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One frame to be sent: a small file, the opening or end of a large one, or some of its bytes.

    A piece of kind THERE is no frame: the receiver has a file of this name, and ours is to be compared with it.
    """

    kind: Kind
    file: SendingFile
    offset: int = 0
    length: int = 0

    @property
    def key(self) -> tuple[int, int, int]:
        """What a confirmation names: the file, and for bytes their offset."""
        return (self.file.number, self.offset, 1 if self.kind in (Kind.CHUNK, Kind.HOLE) else 0)


@dataclass(slots=True)
class _Sent:
    piece: Piece
    streams: set[int]
    since: float
    doubted: bool = False
    """Its stream broke, and the receiver has not yet said what it has of it."""


class Work:
    """The queue, and what is on its way."""

    def __init__(self, supply: Iterator[Piece]) -> None:
        """`supply` yields the first pieces of one file after another; it is asked when nothing else is to be done."""
        self._changed = threading.Condition()
        self._supply: Iterator[Piece] | None = supply
        self._urgent: deque[Piece] = deque()
        self._chunks: deque[tuple[int, Iterator[Piece]]] = deque()
        self._sent: dict[tuple[int, int, int], _Sent] = {}
        self._doubtful: dict[int, list[Piece]] = defaultdict(list)
        self._owed: dict[int, int] = defaultdict(int)
        self._usual = 0.0
        self._open_files: set[int] = set()
        self.error: BaseException | None = None
        self.confirmed_bytes = 0

    def take(self, stream: int, broken: Sequence[BaseException], wanted: Callable[[], bool]) -> Piece | None:
        """Return the next piece for a stream, waiting for one; None when all is confirmed, or it is not `wanted` more.

        Raises what `fail` gave, or the first of `broken`: what has happened to this stream.
        """
        with self._changed:
            while wanted():
                if self.error is not None:
                    raise self.error
                if broken:
                    raise broken[0]
                piece = self._next(stream)
                if piece is not None:
                    return piece
                if self.finished:
                    return None
                self._changed.wait(min(max(self._usual, 0.02), 0.5))
        return None

    @property
    def finished(self) -> bool:
        """Whether all that is to be sent is confirmed."""
        return not self._sent and self._supply is None and not self._open_files and not self._urgent

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left that was never handed out."""
        with self._changed:
            opening = any(sent.piece.kind is Kind.OPEN for sent in self._sent.values())
            return self._supply is None and not self._chunks and not self._urgent and not opening

    def wake(self) -> None:
        """Have waiting streams look again."""
        with self._changed:
            self._changed.notify_all()

    def _next(self, stream: int) -> Piece | None:
        if self._owed[stream] >= STREAM_WINDOW:
            return None
        while self._urgent:
            sent = self._sent.get(self._urgent.popleft().key)
            if sent is not None:  # else it was confirmed in the meantime
                return self._give(sent, stream)
        if len(self._sent) < _WINDOW:
            piece = self._fresh()
            if piece is not None:
                sent = self._sent[piece.key] = _Sent(piece, set(), 0.0)
                return self._give(sent, stream)
        return self._slow(stream)

    def _fresh(self) -> Piece | None:
        while self._chunks:
            piece = next(self._chunks[0][1], None)
            if piece is not None:
                return piece
            self._chunks.popleft()
        if self._supply is None or len(self._open_files) >= MOST_OPEN:
            return None
        try:
            piece = next(self._supply, None)
        except BaseException as error:
            self.error = error
            self._changed.notify_all()
            raise
        if piece is None:
            self._supply = None
            self._changed.notify_all()
        elif piece.kind is Kind.OPEN:
            self._open_files.add(piece.file.number)
        return piece

    def _give(self, sent: _Sent, stream: int) -> Piece:
        piece = sent.piece
        sent.streams.add(stream)
        sent.since = time.monotonic()
        self._owed[stream] += piece.length
        return Piece(Kind.ASK, piece.file, piece.offset, piece.length) if sent.doubted else piece

    def _slow(self, stream: int) -> Piece | None:
        """Return a piece that other streams are slow with, or whose stream does not come back."""
        late = time.monotonic() - max(_PATIENCE * self._usual, 0.5)
        for sent in self._sent.values():
            slow = self._usual and stream not in sent.streams and len(sent.streams) < 3
            if sent.since < late and (slow or not sent.streams):
                return self._give(sent, stream)
        return None

    def _done(self, key: tuple[int, int, int]) -> _Sent | None:
        sent = self._sent.pop(key, None)
        if sent is not None:
            for stream in sent.streams:
                self._owed[stream] -= sent.piece.length
            self._changed.notify_all()
        return sent

    def confirmed(self, number: int, offset: int, bytes_of: int) -> Piece | None:
        """Take a confirmation; return the piece, None if it was confirmed before."""
        with self._changed:
            sent = self._done((number, offset, bytes_of))
            if sent is None:
                return None
            self._usual = max(time.monotonic() - sent.since, 0.9 * self._usual)
            if sent.piece.kind in (Kind.CHUNK, Kind.WHOLE):
                self.confirmed_bytes += sent.piece.length
            return sent.piece

    def _find(self, number: int, offset: int) -> _Sent | None:
        return self._sent.get((number, offset, 1)) or self._sent.get((number, offset, 0))

    def _enqueue(self, piece: Piece) -> None:
        self._sent.setdefault(piece.key, _Sent(piece, set(), time.monotonic()))
        self._urgent.append(piece)
        self._changed.notify_all()

    def again(self, number: int, offset: int) -> Piece | None:
        """Send something once more that came damaged; return what, None if it is not on its way."""
        with self._changed:
            sent = self._find(number, offset)
            if sent is None or sent.doubted or sent.piece in self._urgent:
                return None
            self._enqueue(sent.piece)
            return sent.piece

    def add_chunks(self, number: int, chunks: Iterator[Piece]) -> None:
        """A large file may be sent: take its pieces one by one when streams are free."""
        with self._changed:
            self._chunks.append((number, chunks))
            self._changed.notify_all()

    def add(self, piece: Piece) -> None:
        """Send a piece before any other."""
        with self._changed:
            self._enqueue(piece)

    def lost(self, stream: int) -> None:
        """A stream broke: of the bytes that only it had sent, the receiver is asked what it has."""
        with self._changed:
            self._owed[stream] = 0
            for sent in self._sent.values():
                if stream not in sent.streams:
                    continue
                sent.streams.discard(stream)
                if sent.streams or sent.piece in self._urgent:
                    continue
                if sent.piece.kind in (Kind.CHUNK, Kind.WHOLE):
                    sent.doubted = True
                    self._doubtful[stream].append(sent.piece)
                else:
                    self._urgent.append(sent.piece)
            self._changed.notify_all()

    def returned(self, stream: int) -> None:
        """A stream is there again, or given up: now is the time to ask about what is in doubt."""
        with self._changed:
            pieces = self._doubtful.pop(stream, [])
            self._urgent.extendleft(reversed([piece for piece in pieces if piece not in self._urgent]))
            self._changed.notify_all()

    def in_doubt(self, number: int, offset: int) -> Piece | None:
        """Return what the receiver was asked about, None if that is settled."""
        with self._changed:
            sent = self._find(number, offset)
            return sent.piece if sent is not None and sent.doubted else None

    def kept(self, piece: Piece, length: int, *, good: bool) -> None:
        """The receiver has the first `length` bytes of a piece in doubt: send the rest, and these if they are not good.

        From now on the receiver takes the piece only in these two parts.
        """
        with self._changed:
            sent = self._sent.get(piece.key)
            if sent is None or not sent.doubted:
                return
            self._done(piece.key)
            rest = Piece(piece.kind, piece.file, piece.offset + length, piece.length - length)
            if rest.length or not piece.length:
                self._enqueue(rest)
            if good:
                self.confirmed_bytes += length
            elif length:
                self._enqueue(Piece(piece.kind, piece.file, piece.offset, length))

    def drop(self, number: int, *, ended: bool = True) -> None:
        """Forget all that is still to be sent of a file; `ended`: another one may take its place."""
        with self._changed:
            for key in [key for key in self._sent if key[0] == number]:
                self._done(key)
            self._urgent = deque(piece for piece in self._urgent if piece.file.number != number)
            self._chunks = deque(chunks for chunks in self._chunks if chunks[0] != number)
            if ended:
                self._open_files.discard(number)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """End everything with an error."""
        with self._changed:
            self.error = self.error or error
            self._changed.notify_all()
