"""The sending side of a session: files over several connections at once, piece by piece, each confirmed.

Streams take the next piece when they are free, so that a slow one carries less and holds nobody up. A connection that
breaks is made anew while others go on; of what it had not had confirmed only that is sent again which never came.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from dtscore.errors import (
    CredentialsError,
    DtsError,
    ProtocolError,
    StreamLostError,
)
from dtsnet.delivery import Delivery
from dtsnet.frames import BLOCK, Kind, Stream
from dtsnet.outgoing import Outgoing, Sent
from dtsnet.path import MOST_STREAMS, Decision, Tuner, departed
from dtsnet.pulse import Pulse
from dtsnet.rate import Rate, pace

log = structlog.get_logger(__name__)

_DAMAGED = 20
"""Pieces of one file that may come damaged before the path is given up."""


@dataclass(frozen=True, slots=True)
class SendOptions:
    """Streams (0: as many as suit the path), how long one may be silent (seconds), limits on bytes a second.

    `most`: streams that the other side lets in, where their number is left to the path.

    A stream that breaks is made anew `reconnects` times in a row, after `pause` seconds, longer each time.
    """

    streams: int = 0
    idle: float = 60.0
    reconnects: int = 5
    pause: float = 0.5
    most: int = MOST_STREAMS
    rates: tuple[Rate, ...] = ()


class Sender:
    """One session: sends files and tells how each ended."""

    def __init__(
        self,
        connect: Callable[[int], Stream],
        files: Iterable[Outgoing],
        options: SendOptions,
        *,
        guard: Callable[[], None] = lambda: None,
        progress: Callable[[int], None] = lambda confirmed: None,
    ) -> None:
        """`connect` gives a new connection of the session by number; `guard` raises when the session must end.

        `progress` is told the bytes that are confirmed, some times a second.
        """
        self._connect = connect
        self._options = options
        self._guard = guard
        self._progress = progress
        limits = [rate.bytes_per_second for rate in options.rates if rate.bytes_per_second > 0]
        self._tuner = Tuner(options.streams, min(limits, default=0.0), options.most)
        self._delivery = Delivery(files, lambda: self._tuner.chunk, pace(options.rates))
        self._work = self._delivery.work
        self._pulse = Pulse()
        self._active: dict[int, Stream] = {}
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._over = threading.Event()
        self._connecting: set[int] = set()
        self._lost: Exception | None = None
        self._carried = 0

    @property
    def bytes_sent(self) -> int:
        """The bytes of files that went over connections, those that were sent again included."""
        with self._lock:
            return self._carried + sum(stream.carried for stream in self._active.values())

    @property
    def streams(self) -> int:
        """The streams in use."""
        return self._tuner.streams

    @property
    def chunk(self) -> int:
        """The bytes of a piece: what a cut costs at most on each stream."""
        return self._tuner.chunk

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What was chosen for this path, and why."""
        return tuple(self._tuner.decisions)

    @property
    def ended(self) -> list[Sent]:
        """How the files ended that have ended so far, in their order."""
        return self._delivery.ended

    def run(self) -> list[Sent]:
        """Send everything; return how each file ended, in their order.

        Raises StreamLostError when no connection can be had any more, ProtocolError, or what `guard` raised.
        """
        threads: dict[int, threading.Thread] = {}
        try:
            self._watch(threads)
        except BaseException as error:
            self._work.fail(error)
            self._break_off()
            raise
        finally:
            self._over.set()
            for number, thread in threads.items():
                while thread.is_alive() and number not in self._connecting:
                    thread.join(0.1)
            self._delivery.close()
        if self._work.error is not None:
            raise self._work.error
        if not self._work.finished:
            raise self._lost if isinstance(self._lost, DtsError) else StreamLostError(
                f"no connection to the other side: {self._lost}", "see the log of the other side"
            )  # fmt: skip
        return self.ended

    def _watch(self, threads: dict[int, threading.Thread]) -> None:
        """Keep as many streams going as suit the path, until all have ended."""
        while True:
            for number in range(self._tuner.streams):
                if number not in threads and not self._work.exhausted:
                    threads[number] = threading.Thread(
                        target=self._stream, args=(number,), name=f"send-{number}", daemon=True
                    )
                    threads[number].start()
            if self._work.finished or not any(thread.is_alive() for thread in threads.values()):
                break
            self._news.wait(0.1)
            self._news.clear()
            if self._work.error is not None:
                self._break_off()
                break
            self._guard()
            self._progress(self._work.confirmed_bytes)
            self._tune()
        self._progress(self._work.confirmed_bytes)

    def _tune(self) -> None:
        before = self._tuner.streams
        with self._lock:
            streams = list(self._active.values())
        sockets = [stream.socket for stream in streams]
        self._tuner.step(self._work.confirmed_bytes, sockets, more=not self._work.exhausted)
        if self._tuner.streams != before and streams:
            self._say_streams(streams[0])

    def _say_streams(self, stream: Stream) -> None:
        try:
            stream.send(Kind.STREAMS, 0, self._tuner.streams)
        except StreamLostError:
            pass  # whoever sends on it will see; the next connection begins with the same words

    def _break_off(self) -> None:
        with self._lock:
            streams = list(self._active.values())
        for stream in streams:
            stream.abort()

    # one connection

    def _stream(self, number: int) -> None:
        """Keep one connection going until everything is confirmed, or it is not wanted any more."""
        failures = 0
        try:
            while self._wanted(number) and not self._work.finished:
                before = self._work.confirmed_bytes
                try:
                    self._carry(self._new_connection(number))
                    return
                except (StreamLostError, ProtocolError, CredentialsError, OSError) as error:
                    self._work.lost(number)
                    failures = 1 if self._work.confirmed_bytes > before else failures + 1
                    if failures > self._options.reconnects or self._work.error is not None:
                        self._lost = error
                        self._work.returned(number)
                        return
                    log.warning("a data connection broke; it is made anew", stream=number, reason=str(error))
                    self._over.wait(self._options.pause * failures)
        except BaseException as error:
            self._work.fail(error)
        finally:
            self._news.set()

    def _new_connection(self, number: int) -> Stream:
        """Connect; the session does not wait for this when it is over, and the connection then says goodbye."""
        with self._lock:
            self._connecting.add(number)
        try:
            return self._connect(number)
        finally:
            with self._lock:
                self._connecting.discard(number)

    def _wanted(self, number: int) -> bool:
        return number < self._tuner.streams

    def _carry(self, stream: Stream) -> None:
        """Send over one connection, while a thread of its own takes the confirmations that come back."""
        broken: list[BaseException] = []
        self._begin(stream)
        listener = threading.Thread(
            target=self._listen, args=(stream, broken), name=f"confirm-{stream.number}", daemon=True
        )
        listener.start()
        buffer = memoryview(bytearray(BLOCK))
        try:
            stream.send(Kind.STREAMS, 0, self._tuner.streams)
            self._work.returned(stream.number)
            while (piece := self._work.take(stream.number, broken, lambda: self._wanted(stream.number))) is not None:
                self._delivery.send(stream, piece, buffer)
            self._part(stream)
        except BaseException:
            stream.abort()
            raise
        finally:
            listener.join()
            self._end(stream)
        if not self._work.finished:
            self._work.lost(stream.number)
            self._work.returned(stream.number)

    def _begin(self, stream: Stream) -> None:
        with self._lock:
            self._active[stream.number] = stream
        self._tuner.prepare(stream.socket)
        self._news.set()
        self._pulse.add(stream)

    def _end(self, stream: Stream) -> None:
        self._pulse.remove(stream)
        left = departed(stream.socket)  # of a broken one the kernel may have thrown away what never left
        with self._lock:
            self._carried += stream.carried if left is None else min(stream.carried, left)
            self._active.pop(stream.number, None)
        stream.close()

    @staticmethod
    def _part(stream: Stream) -> None:
        try:
            stream.send(Kind.BYE)
            stream.finish()
        except StreamLostError:
            stream.abort()  # all is confirmed: the other side may have gone first

    def _listen(self, stream: Stream, broken: list[BaseException]) -> None:
        """Take what comes back on a connection until it ends."""
        try:
            while (frame := stream.receive()) is not None:
                self._delivery.answer(frame)
            broken.append(StreamLostError(f"data connection {stream.number} was closed by the other side", "see there"))
        except DtsError as error:
            broken.append(error)
        except Exception as error:  # whatever a broken answer leads to must reach whoever sends
            broken.append(error)
            self._work.fail(error)
        finally:
            stream.abort()
            self._work.wake()
