"""The process around the agents: timer, heartbeat, pokes, signals and the drain.

APScheduler is the timer and nothing more: it sets an event. Should it stop ticking (it does after a backward clock
step), the agent's own loop wakes by the monotonic clock and starts the timer anew.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import FrameType

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor as TimerPool
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from agents.base import Agent
from agents.commit import expire
from agents.deliver_agent import DeliverAgent
from agents.exposure_agent import ExposureAgent
from agents.forward_agent import ForwardAgent
from agents.ib_agent import BuildAgent
from agents.import_agent import ImportAgent
from agents.queue_agent import QueueAgent
from agents.register_agent import RegisterAgent
from agents.remove_agent import RemoveAgent
from agents.services import Services
from agents.transfer_agent import TransferAgent
from agents.verify_agent import VerifyAgent
from dtscore.config import Config
from dtscore.database import now
from dtscore.errors import DatabaseUnavailableError, UsageError
from dtscore.poke import Listener
from reqdb import store

AGENTS: Mapping[str, type[Agent]] = {
    agent.kind: agent
    for agent in (
        TransferAgent, RegisterAgent, RemoveAgent, VerifyAgent, DeliverAgent, ForwardAgent, QueueAgent, ImportAgent,
        ExposureAgent, BuildAgent,
    )
}
"""All agents by name, as `dts-agent run NAME` takes them."""

_KEEPER_SECONDS = 1.0
_NEVER = 1e9
"""A margin (s) that no lease outlives: nobody's lease is ended."""

_CLOCK_STEP = 1.0
"""Seconds by which the database's clock may leave the monotonic one between two looks before it has stepped."""

log = structlog.get_logger()


class SteadyInterval(IntervalTrigger):  # type: ignore[misc]
    """An interval that leaves out the ticks a forward clock step jumped over, instead of listing millions of them."""

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """Return the next moment that is not past already."""
        following: datetime | None = super().get_next_fire_time(previous_fire_time, now)
        return following if following is None or following > now else now + self.interval


class Loop(threading.Thread):
    """Runs one agent whenever its event is set: by the timer, a poke, or the monotonic watchdog."""

    def __init__(self, agent: Agent, restart_timer: Callable[[str], None]) -> None:
        """Prepare the thread; `restart_timer` starts the timer of an agent anew."""
        super().__init__(name=f"loop-{agent.kind}", daemon=True)
        self.agent = agent
        self.wake = threading.Event()
        self._restart_timer = restart_timer

    def run(self) -> None:
        """Run the agent until it drains; a database that is away costs nothing but the wait."""
        patience = 2.0 * self.agent.settings.poll_interval
        while not self.agent.draining:
            if not self.wake.wait(timeout=patience) and not self.agent.draining:
                log.warning("the timer has stopped; starting it anew", agent=self.agent.kind)
                self._restart_timer(self.agent.kind)
            self.wake.clear()
            self._run_once()

    def _run_once(self) -> None:
        try:
            self.agent.tick()
            summary = self.agent.run_once(self.wake)
            if summary:
                log.info("worked", agent=self.agent.kind, **summary)
        except DatabaseUnavailableError as error:
            log.warning("the database is away; the next tick tries again", agent=self.agent.kind, error=error.message)
            time.sleep(min(1.0, self.agent.settings.poll_interval))
            self.wake.set()
        except Exception:
            log.exception("a run of the agent broke off; the next tick tries again", agent=self.agent.kind)


class Keeper(threading.Thread):
    """Sends the heartbeats and does what the clock asks of the request database."""

    def __init__(self, services: Services, agents: Sequence[Agent], on_ready: Callable[[frozenset[str]], None]) -> None:
        """Prepare the thread; `on_ready` hears of kinds of operations with new work."""
        super().__init__(name="keeper", daemon=True)
        self._services = services
        self._agents = agents
        self._on_ready = on_ready
        self._stopping = threading.Event()
        self._steady_since = time.monotonic()
        self._clock_ahead: float | None = None

    def run(self) -> None:
        """Beat and tend until stopped."""
        beaten = 0.0
        while not self._stopping.wait(timeout=_KEEPER_SECONDS):
            try:
                if time.monotonic() - beaten >= self._services.config.agents.heartbeat:
                    self._beat()
                    beaten = time.monotonic()
                self._tend()
            except DatabaseUnavailableError as error:
                self._steady_since = time.monotonic()
                beaten = 0.0
                log.warning("no heartbeat: the database is away", error=error.message)
            except Exception:
                log.exception("the keeper met an internal error and goes on")

    def _beat(self) -> None:
        """Send the heartbeats; who had lost a lease found nothing to claim meanwhile, and is to look again."""
        entered = frozenset(agent.kind for agent in self._agents if agent.beat())
        if entered:
            self._on_ready(entered)

    def _tend(self) -> None:
        """Promote, fail and expire what is due.

        Leases end only after the database and its clock were steady for a heartbeat: after it was away, or its clock
        stepped forward, all agents are late alike, this one too.
        """
        self._watch_clock()
        steady = time.monotonic() - self._steady_since > self._services.config.agents.heartbeat + 2.0
        ready = tend(self._services, margin=0.0 if steady else _NEVER)
        if ready:
            self._on_ready(ready)

    def _watch_clock(self) -> None:
        """Notice a step of the database's clock: by it leases seem to have ended that have not."""
        with self._services.database.read() as connection:
            begun = time.monotonic()
            ahead = now(connection).timestamp() - begun
        if time.monotonic() - begun > _CLOCK_STEP / 2:
            return  # it took so long to ask that the answer says nothing
        before, self._clock_ahead = self._clock_ahead, ahead
        if before is not None and abs(ahead - before) > _CLOCK_STEP:
            self._steady_since = time.monotonic()
            log.warning("the database's clock has stepped", seconds=round(ahead - before, 1))

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()


def tend(services: Services, *, margin: float) -> frozenset[str]:
    """Do what the clock asks for, if anything; return the kinds of operations with new work.

    Agents whose lease ended more than `margin` seconds ago lose their files.
    """
    with services.database.read() as connection:
        if not store.needs_tending(connection, margin=margin):
            return frozenset()
    lost = services.database.run(lambda connection: expire(connection, margin))
    if lost:
        log.warning("agents were lost; their files go back to ToDo", agents=lost)
    ready = services.database.run(store.tend)
    return frozenset(AGENTS) if lost else ready


def check_names(names: Sequence[str]) -> list[str]:
    """Return the agents' names, all of them if none is given; raises UsageError for an unknown one."""
    unknown = [name for name in names if name not in AGENTS]
    if unknown:
        raise UsageError(f"there is no agent {unknown[0]!r}", f"the agents are: {', '.join(AGENTS)}")
    return list(dict.fromkeys(names)) or list(AGENTS)


class Runner:
    """The agents of one process, each in a loop of its own."""

    def __init__(self, config: Config, names: Sequence[str] = ()) -> None:
        """Enter the agents in the database, waiting for it while it is away."""
        self._config = config
        self._services = Services(config)
        self._agents = [self._enter(name) for name in check_names(names)]
        self._loops = {agent.kind: Loop(agent, self._restart_timer) for agent in self._agents}
        self._keeper = Keeper(self._services, self._agents, self._ready)
        self._stop = threading.Event()
        self._changing_timer = threading.Lock()
        self._timer = self._new_timer()

    def _enter(self, name: str) -> Agent:
        while True:
            try:
                return AGENTS[name](self._services)
            except DatabaseUnavailableError as error:
                log.warning("waiting for the database", error=error.message)
                time.sleep(1.0)

    def run(self) -> None:
        """Work until SIGTERM, SIGINT or `stop`; then drain within the configured grace."""
        listener = self._listen()
        self._keeper.start()
        self._timer.start()  # before the loops: each of them may find that it stands still, and replace it
        for loop in self._loops.values():
            loop.start()
        log.info("running", agents=[agent.lease.label for agent in self._agents])
        try:
            while not self._stop.wait(timeout=1.0):
                pass
        finally:
            if listener is not None:
                listener.close()
            self._drain()

    def _listen(self) -> Listener | None:
        """Hear pokes, where the run folder can be used: without them work is found by polling."""
        try:
            return Listener(self._config.run.folder, self._wake)
        except OSError as error:
            log.warning("pokes are not heard", folder=str(self._config.run.folder), error=str(error))
            return None

    def handle_signals(self) -> None:
        """Drain on SIGTERM and SIGINT; for the main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def stop(self) -> None:
        """Begin to drain."""
        self._stop.set()

    def _drain(self) -> None:
        """Claim nothing more, let running files finish within the grace, hand back the rest, and leave."""
        grace = self._config.agents.grace
        log.info("draining", grace=grace)
        with self._changing_timer:
            self._stop_timer(self._timer)
        for agent in self._agents:
            agent.drain(0.8 * grace)
            self._loops[agent.kind].wake.set()
        for agent in self._agents:
            self._leave(agent)
        self._keeper.stop()
        self._keeper.join(timeout=2.0)
        self._services.close()
        log.info("ended")

    def _leave(self, agent: Agent) -> None:
        try:
            agent.close()
        except DatabaseUnavailableError as error:
            log.warning("not handed back: the lease will end by itself", agent=agent.kind, error=error.message)

    def _wake(self, kinds: frozenset[str]) -> None:
        for kind in kinds & self._loops.keys():
            self._loops[kind].wake.set()

    def _ready(self, kinds: frozenset[str]) -> None:
        self._wake(kinds)
        self._services.poke(kinds - self._loops.keys())

    def _new_timer(self) -> BackgroundScheduler:
        """Make the timer; a tick that comes late still counts, and ticks that pile up are one."""
        pools = {kind: TimerPool(1) for kind in self._loops}
        defaults = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        timer = BackgroundScheduler(executors={"default": TimerPool(1), **pools}, job_defaults=defaults, timezone="UTC")
        for kind, loop in self._loops.items():
            trigger = SteadyInterval(seconds=loop.agent.settings.poll_interval)
            timer.add_job(loop.wake.set, trigger, id=kind, executor=kind)
            loop.wake.set()  # the first run comes at once, not after an interval
        return timer

    def _restart_timer(self, kind: str) -> None:
        """Replace a timer that stopped ticking: its next tick may lie hours ahead by the clock as it is now."""
        with self._changing_timer:
            if self._stop.is_set():
                return
            old, self._timer = self._timer, self._new_timer()
            self._timer.start()
            self._stop_timer(old)

    @staticmethod
    def _stop_timer(timer: BackgroundScheduler) -> None:
        if timer.running:
            timer.shutdown(wait=False)


def run(config: Config, names: Sequence[str] = ()) -> None:
    """Run agents (all of them if none is named) until SIGTERM or SIGINT, and drain."""
    runner = Runner(config, names)
    runner.handle_signals()
    runner.run()


def once(config: Config, names: Sequence[str] = ()) -> Counter[str]:
    """Do all work there is now, for cron and tests; return how many files ended in which state.

    Rounds are made until nothing is left, so that a later step that became ready is done too.
    """
    services = Services(config)
    agents = [AGENTS[name](services) for name in check_names(names)]
    keeper = Keeper(services, agents, lambda _: None)

    def drain(_number: int = 0, _frame: FrameType | None = None) -> None:
        for agent in agents:
            agent.drain(0.8 * config.agents.grace)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, drain)
    try:
        tend(services, margin=config.agents.heartbeat)
        keeper.start()
        return _work_through(agents)
    finally:
        drain()
        for agent in agents:
            agent.close()
        keeper.stop()
        keeper.join(timeout=2.0)
        services.close()


def _work_through(agents: Sequence[Agent]) -> Counter[str]:
    """Run the agents in turn until none of them finds anything to do."""
    total: Counter[str] = Counter()
    while not any(agent.draining for agent in agents):
        summary: Counter[str] = sum((agent.run_once() for agent in agents), Counter())
        total.update(summary)
        if not summary:
            break
    return total
