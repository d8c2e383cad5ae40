"""The agents' common part: `run_once` claims, does and commits until nothing more can be claimed.

There is no loop here. What calls `run_once` — the runner's timer, cron or a test — decides when.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

import structlog
from sqlalchemy.engine import Connection

from agents.attempt import Achieved, Attempt, caught
from agents.lease import Beat, Lease
from agents.place import Place
from agents.services import Services
from reqdb import store
from reqdb.store import ClaimedFile, Waiting
from storage.batch import SMALL

log = structlog.get_logger()


class Agent(ABC):
    """A periodic worker with a name; the runner calls `run_once`, `beat`, `drain` and `close`."""

    kind: str

    def __init__(self, services: Services) -> None:
        """Keep the site's services; nothing is claimed yet."""
        self.services = services
        self.settings = services.config.agent(self.kind)
        self.lease = Lease(services, self.kind)
        self._ticked_at = time.monotonic()
        self._draining = threading.Event()
        self._hard_stop = float("inf")

    @abstractmethod
    def run_once(self, wake: threading.Event | None = None) -> Counter[str]:
        """Do all work there is now; return how many files ended in which state. `wake` says that more has come."""

    def tick(self) -> None:
        """Say that the main loop still turns."""
        self._ticked_at = time.monotonic()

    def beat(self) -> bool:
        """Send the heartbeat; enter the agent anew when its lease was lost, and then return True: it may claim again.

        Raises DatabaseUnavailableError.
        """
        quiet = 3 * self.settings.poll_interval + 60.0
        ticked = time.monotonic() - self._ticked_at < quiet
        self.lease.beat(Beat(ticked, self._draining.is_set(), self.progress()))
        if self.lease.lost and not self._draining.is_set():
            log.warning("the lease was lost; entering anew", agent=self.lease.label)
            self.lease = Lease(self.services, self.kind)
            return True
        return False

    def progress(self) -> Sequence[store.Progress]:
        """Return where the workers are."""
        return ()

    @property
    def draining(self) -> bool:
        """Whether no new work is to be claimed."""
        return self._draining.is_set()

    @property
    def out_of_grace(self) -> bool:
        """Whether what still runs is to be handed back now."""
        return time.monotonic() >= self._hard_stop

    def drain(self, grace: float) -> None:
        """Claim nothing more; what still runs after `grace` seconds is handed back."""
        self._hard_stop = time.monotonic() + grace
        self._draining.set()

    def close(self) -> None:
        """Leave the database: what is still held goes back to ToDo."""
        self.lease.leave()


class ClaimingAgent(Agent):
    """An agent that claims files of one kind of operation and works on several places at once."""

    together = 1
    """Files that `perform_many` is given at once."""

    def __init__(self, services: Services) -> None:
        """Begin with no place taken; [agents] workers bounds how many there may be."""
        super().__init__(services)
        self._places: dict[int, Place] = {}
        self._changed = threading.Condition()
        self._summary: Counter[str] = Counter()
        self._strange: set[int] = set()

    @abstractmethod
    def perform(self, attempt: Attempt) -> Achieved:
        """Do the work on one file; raise WorkError when it cannot be done."""

    def perform_many(self, attempts: Sequence[Attempt]) -> Sequence[Achieved | Exception | None]:
        """Do the work on files of one target, the first of them at least; None stands for one that was not begun."""
        return [caught(lambda: self.perform(attempts[0])), *[None] * (len(attempts) - 1)]

    def run_once(self, wake: threading.Event | None = None) -> Counter[str]:
        """Claim and work until nothing more can be claimed; return how many files ended in which state."""
        self._summary = Counter()
        while True:
            self.tick()
            if wake is not None:
                wake.clear()
            if not self.draining:
                self._fill()
            if not self._places:
                return self._summary
            self._wait(wake)

    def _wait(self, wake: threading.Event | None) -> None:
        """Wait until a place is free, or a poke or poll says that there may be more to claim."""
        with self._changed:
            busy = len(self._places)
            deadline = time.monotonic() + self.settings.poll_interval
            while len(self._places) == busy and time.monotonic() < deadline and not (wake and wake.is_set()):
                self._changed.wait(timeout=0.1)

    def _fill(self) -> None:
        """Take places, one on each waiting channel in turn, while workers are free."""
        passed_over: set[int] = set()
        while len(self._places) < self.settings.workers and not self.draining:
            with self.services.database.read() as connection:
                waiting = store.waiting_channels(connection, self.kind, node=self.services.node)
            chosen = next((one for one in self._order(waiting) if one.channel_id not in passed_over), None)
            if chosen is None:
                return
            if not self._begin(chosen):
                passed_over.add(chosen.channel_id)

    def _order(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """Order the channels to serve: by priority, then the one with the fewest places here.

        The last quarter of the workers is kept for channels that have none, so that slow ones cannot take them all.
        """
        ours = Counter(place.waiting.channel_id for place in list(self._places.values()))
        reserve = self.settings.workers // 4
        crowded = len(self._places) >= self.settings.workers - reserve
        fit = [
            one
            for one in waiting
            if self.services.reachable(one.source)
            and self.services.reachable(one.target)
            and not (crowded and ours[one.channel_id])
        ]
        return sorted(fit, key=lambda one: (-one.priority, ours[one.channel_id]))

    def _begin(self, waiting: Waiting) -> bool:
        """Take a place on a channel and hand its first batch to a worker; False when there is none to take."""
        lease = self.lease
        limits = self.services.limits(waiting.source, waiting.target)
        batch = 1 if waiting.probing else self.settings.batch
        places = self._places_for(waiting, limits)

        def claim(connection: Connection) -> tuple[int, list[ClaimedFile]] | None:
            token = store.take_place(connection, lease.agent_id, waiting, limits)
            if token is None:
                return None
            fair = store.fair_batch(connection, waiting.channel_id, batch, places, SMALL)
            files = store.claim_files(connection, token, waiting.channel_id, fair)
            if not files:
                store.release(connection, token)
                return None
            return token, files

        taken = self.services.database.run(claim)
        if taken is None:
            return False
        token, files = taken
        place = Place(self, lease, token, waiting, files)
        with self._changed:
            self._places[token] = place
        # A daemon thread: one that hangs in a system call must not keep the process from ending.
        threading.Thread(target=self._work, args=(place,), name=f"{self.kind}-{token}", daemon=True).start()
        return True

    def _places_for(self, waiting: Waiting, limits: store.Limits) -> int:
        """Return how many workers of this agent could begin on a channel now, this one among them."""
        ours = sum(place.waiting.channel_id == waiting.channel_id for place in list(self._places.values()))
        most = self.settings.workers - self.settings.workers // 4
        bounds = [limits.channel, *(limits.elements.get(name, 0) for name in (waiting.source, waiting.target))]
        return max(1, min([most, *(bound for bound in bounds if bound)]) - ours)

    def _work(self, place: Place) -> None:
        try:
            place.work()
        finally:
            with self._changed:
                self._places.pop(place.token, None)
                self._changed.notify_all()

    def ended(self, states: Counter[str]) -> None:
        """Add what a worker committed to the summary of this run."""
        with self._changed:
            self._summary.update(states)

    def beat(self) -> bool:
        """Send the heartbeat, and take the files from workers that hang."""
        anew = super().beat()
        with self._changed:
            hanging = [place for place in self._places.values() if place.hangs()]
        for place in hanging:
            place.abandon()
            with self._changed:
                self._places.pop(place.token, None)
                self._changed.notify_all()
        self._give_up_strange()
        return anew

    def _give_up_strange(self) -> None:
        """Give up places of ours that no worker knows, met at two heartbeats: their claim was committed unheard.

        The database may die between a commit and its answer. Nobody would work on those files, nor free them while
        this agent's heart beats.
        """
        with self.services.database.read() as connection:
            held = store.places_of(connection, self.lease.agent_id)
        with self._changed:
            unknown = held - self._places.keys()
        for token in unknown & self._strange:
            log.warning("a place that no worker knows is given up", token=token)
            self._release(token)
        self._strange = unknown - self._strange

    def _release(self, token: int) -> None:
        self.services.database.run(lambda connection: store.release(connection, token))

    def progress(self) -> Sequence[store.Progress]:
        """Return where each worker is."""
        with self._changed:
            return [place.progress() for place in self._places.values() if not place.lease.lost]

    def close(self) -> None:
        """Wait for the workers within the grace, then leave: what is still held goes back to ToDo."""
        with self._changed:
            while self._places and not self.out_of_grace:
                self._changed.wait(timeout=0.1)
        super().close()
