"""Which programs are measured over which connections, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.turns import Series
from benchmarks.wan.network import Connection, Network
from benchmarks.wan.tools import BASE, OURS, TOOLS, TUNED, Setting, Tool
from benchmarks.wan.turn import Load, Turn, play
from benchmarks.wan.validation import Measured, measure

ALL = tuple(Connection(rtt, loss) for rtt in (0.0, 20.0, 80.0, 200.0) for loss in (0.0, 1e-4, 1e-3))
QUICK = (Connection(0.0, 0.0), *(Connection(80.0, loss) for loss in (0.0, 1e-4, 1e-3)))
QUICK_TOOLS = (BASE, f"{OURS}, 4 streams", f"{OURS}, 16 streams", TUNED)
LONG = (Connection(80.0, 0.0), Connection(80.0, 1e-4))
"""Where one large file is sent as well, so that the beginning counts for little."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What was found over one connection: the line itself, and the turns of each program by its name.

    `failures` holds why a program has no turns.
    """

    connection: Connection
    measured: Measured
    turns: Mapping[str, Sequence[Turn]]
    failures: Mapping[str, str] = field(default_factory=dict)

    def rates(self, name: str) -> Series:
        """Return a program's bytes a second, turn by turn."""
        return Series(tuple(turn.rate for turn in self.turns[name]))

    def ratio(self, name: str) -> Series | None:
        """Return a program's rates over those of the rsync daemon in the same turns; None if this one has none."""
        return self.rates(name).over(self.rates(BASE)) if BASE in self.turns else None


def chosen(words: Sequence[str], quick: bool) -> tuple[list[Connection], list[Tool]]:
    """Return connections and programs: those whose names begin with one of the words, if any does of their kind."""
    tools = [tool for tool in TOOLS if not quick or tool.name in QUICK_TOOLS]
    connections = QUICK if quick else ALL
    named = [one for one in connections if one.name.startswith(tuple(words))]
    wanted = [tool for tool in tools if tool.name.startswith(tuple(words))]
    if wanted and BASE not in [tool.name for tool in wanted]:
        wanted.insert(0, tools[0])
    return named or list(connections), wanted or tools


@dataclass(frozen=True, slots=True)
class Run:
    """What all cells of a run share: the line, the folders, the file, rounds, seconds for a turn, whom to tell."""

    network: Network
    setting: Setting
    load: Load
    repeats: int
    limit: float
    tell: Callable[[str], None]

    def cell(self, connection: Connection, tools: Sequence[Tool]) -> Cell:
        """Validate a connection, then let all programs take their turns; every second round goes backwards."""
        self.tell(connection.name)
        measured = measure(self.network, connection, seed=1)
        turns: dict[str, list[Turn]] = {tool.name: [] for tool in tools}
        failures: dict[str, str] = {}
        for number in range(self.repeats):
            # The seed is the round's: in one round all meet the same losses, as far as they send alike.
            for tool in list(tools)[:: -1 if number % 2 else 1]:
                if tool.name not in failures:
                    self._turn(connection, tool, 2 + number, turns[tool.name], failures)
        whole = {name: found for name, found in turns.items() if name not in failures}
        return Cell(connection, measured, whole, failures)

    def _turn(self, connection: Connection, tool: Tool, seed: int, turns: list[Turn], failures: dict[str, str]) -> None:
        """Let one program take its turn; one that fails gets no other."""
        self.network.connect(connection, seed)
        try:
            turn = play(self.network, self.setting, tool, self.load, self.limit)
        except RuntimeError as error:
            failures[tool.name] = str(error)[-500:]
            self.tell(f"  {tool.name}: {error}")
            return
        turns.append(turn)
        streams = f", {turn.streams} streams" if turn.streams else ""
        self.tell(f"  {tool.name}: {turn.rate / 1e6:.1f} MB/s{', stopped' if turn.stopped else ''}{streams}")
