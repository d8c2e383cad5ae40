"""Made-up nights of transfers: several channels, owners and errors, the same on every run."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone

from accounting.period import Period
from accounting.store import AttemptRecord, FinalStatus

UTC = timezone.utc
FIRST_NIGHT = datetime(2026, 11, 18, 22, 40, tzinfo=UTC)
INSIDE = Period(datetime(2026, 11, 18, 23, 30, tzinfo=UTC), datetime(2026, 11, 20, 23, 45, tzinfo=UTC))
"""A period that leaves out some attempts at both ends."""

_CHANNELS = (("ctio", "fnal", 9e7), ("ctio", "ncsa", 4.5e7), ("fnal", "archive", 1.6e8))
_ERRORS = ("timeout", "unavailable", "checksum")


def attempt(file_id: int = 1, number: int = 1, **changes: object) -> AttemptRecord:
    """Return one good transfer of 1 GB in 10 s, with the given fields changed."""
    values: dict[str, object] = {
        "file_id": file_id,
        "attempt": number,
        "request_id": 7,
        "operation_type": "transfer",
        "user": "des",
        "execution_site": "ctio",
        "source": "ctio",
        "destination": "fnal",
        "protocol": "sftp",
        "final_status": "Done",
        "transfer_size": 1_000_000_000,
        "transfer_time": 10.0,
        "registration_time": 0.25,
        "transfer_ok": 1,
        "transfer_total": 1,
        "registration_ok": 1,
        "registration_total": 1,
        "error_class": "",
        "started_at": FIRST_NIGHT,
        "ended_at": FIRST_NIGHT + timedelta(seconds=11),
    }
    return AttemptRecord(**{**values, **changes})  # type: ignore[arg-type]


def three_nights(files: int = 150) -> list[AttemptRecord]:
    """Return the attempts of three nights, in the order they began; about one in eight ends badly."""
    chance = random.Random(42)
    records = []
    for file_id in range(1, files * 3 + 1):
        night, place = divmod(file_id - 1, files)
        began = FIRST_NIGHT + timedelta(days=night, seconds=place * 61.5)
        records += _one_file(file_id, began, chance)
    records.append(
        attempt(9001, operation_type="register", destination="", protocol="", transfer_size=0, transfer_time=0)
    )
    return records


def _one_file(file_id: int, began: datetime, chance: random.Random) -> list[AttemptRecord]:
    source, destination, speed = _CHANNELS[file_id % 3]
    made: list[AttemptRecord] = []
    while not made or made[-1].final_status == "Retried":
        status = _fate(chance, len(made) + 1)
        size = chance.randrange(400_000_000, 600_000_000) if status == "Done" else chance.choice([0, 7_000_000])
        seconds = size / (speed * chance.uniform(0.7, 1.3))
        good = int(status == "Done")
        made.append(
            attempt(
                file_id,
                len(made) + 1,
                request_id=file_id // 20,
                user=("des", "delve", "vik")[file_id % 7 % 3],
                source=source,
                destination=destination,
                protocol="file" if destination == "archive" else "sftp",
                final_status=status,
                transfer_size=size,
                transfer_time=seconds,
                registration_time=chance.uniform(0.01, 0.2) * good,
                transfer_ok=good,
                registration_ok=good,
                registration_total=good,
                error_class={"Done": "", "Cancelled": "cancelled"}.get(status) or _error(status, chance),
                started_at=began,
                ended_at=began + timedelta(seconds=seconds + 0.5),
            )
        )
        began += timedelta(minutes=5)
    return made


def _fate(chance: random.Random, number: int) -> FinalStatus:
    throw = chance.random()
    if throw < 0.01:
        return "Cancelled"
    if throw > 0.13:
        return "Done"
    return "Failed" if number == 3 or throw < 0.03 else "Retried"


def _error(status: FinalStatus, chance: random.Random) -> str:
    return "" if status == "Done" else chance.choice(_ERRORS)
