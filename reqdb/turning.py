"""The turn of a place: what ended is written and the next batch claimed in one transaction, counted together.

The order of the locks is the same for all: the place, the files that ended, what other rooms write, the files that
are claimed, the channel, the requests, the operations. The counters come last, since all workers of a request share
its row: they wait for each other no longer than one commit takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from dtscore.database import now as database_now
from dtscore.driver import pipelined
from reqdb.claiming import ClaimedFile, OperationView, claim_for, find_place, release
from reqdb.counting import Tally
from reqdb.finishing import Outcome, hand_back, keep, refuse, take


class Turn:
    """One transaction of a place. A place that was given up takes, hands back and claims nothing."""

    def __init__(self, connection: Connection, token: int, views: dict[int, OperationView] | None = None) -> None:
        """Hold the place until the transaction ends; `views` keeps operations from one turn to the next."""
        self.connection = connection
        self.token = token
        self._views = {} if views is None else views
        with pipelined(connection):
            self._place = find_place(connection, token)
        self.now = database_now(connection) if self._place is None else self._place.now
        self._tally = Tally(connection, self.now)

    @property
    def channel_id(self) -> int:
        """The channel of the place; 0 when the place was given up."""
        return 0 if self._place is None else self._place.channel_id

    @property
    def channel_failed(self) -> bool:
        """Whether the channel has met an outage that nobody has found to be over."""
        return self._place is not None and self._place.failures > 0

    def take(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Write how files ended; return the outcomes of those that the token still holds, to be kept."""
        return [] if self._place is None else take(self.connection, self.token, outcomes, self.now)

    def refuse(self, outcome: Outcome) -> None:
        """Write that a file which was taken as Done has failed instead."""
        refuse(self.connection, outcome)

    def keep(self, outcomes: Sequence[Outcome]) -> None:
        """Write the attempts of files that were taken, with what came of them in the end."""
        keep(self.connection, outcomes, self._tally, self.now)

    def hand_back(self, file_ids: Sequence[int]) -> None:
        """Give files that were not begun back to ToDo."""
        hand_back(self.connection, self.token, file_ids, self._tally)

    def claim(self, batch: int) -> list[ClaimedFile]:
        """Claim up to `batch` files of the channel."""
        if self._place is None or not batch:
            return []
        return claim_for(self.connection, self._place, batch, self._tally, self._views)

    def release(self) -> None:
        """Give the place up, with all that it still holds."""
        release(self.connection, self.token, tally=self._tally)

    def settle(self) -> set[str]:
        """Write the counters and what follows from them; return the kinds of operations with new files in ToDo."""
        self._tally.settle()
        return self._tally.ready
