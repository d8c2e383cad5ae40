"""The door of the request database: the ONLY writer of state. Every function takes an open connection.

Submitting, claiming, leasing, finishing and controlling lie in modules of those names, which nothing outside this room
imports.
"""

from __future__ import annotations

from reqdb.claiming import (
    ClaimedFile,
    Limits,
    OperationView,
    Waiting,
    claim_files,
    fair_batch,
    release,
    take_place,
    waiting_channels,
)
from reqdb.controlling import Changed, cancel, find_request, needs_tending, retry, states_of, tend
from reqdb.events import note
from reqdb.finishing import Outcome, finish, hand_back, held, rest_channel, wake_channel
from reqdb.leasing import (
    AGENT_LOST,
    Expired,
    Heartbeat,
    LostAttempt,
    Progress,
    agent_label,
    beat,
    enter_agent,
    expire_agents,
    leave_agent,
    places_of,
)
from reqdb.submitting import Submitted, submit
from reqdb.turning import Turn

__all__ = [
    "AGENT_LOST",
    "Changed",
    "ClaimedFile",
    "Expired",
    "Heartbeat",
    "Limits",
    "LostAttempt",
    "OperationView",
    "Outcome",
    "Progress",
    "Submitted",
    "Turn",
    "Waiting",
    "agent_label",
    "beat",
    "cancel",
    "claim_files",
    "enter_agent",
    "expire_agents",
    "fair_batch",
    "find_request",
    "finish",
    "hand_back",
    "held",
    "leave_agent",
    "needs_tending",
    "note",
    "places_of",
    "release",
    "rest_channel",
    "retry",
    "states_of",
    "submit",
    "take_place",
    "tend",
    "waiting_channels",
    "wake_channel",
]
