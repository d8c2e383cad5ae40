"""The exposure agent: exposures whose frames are received, or late, become requests: build, then what follows.

It looks at the exposures of this host's builder node alone. The version is reserved and its request submitted in one
transaction, so that running it twice, or being killed at any moment, makes no second request.
"""

from __future__ import annotations

import threading
from collections import Counter

import structlog
from sqlalchemy.engine import Connection

from agents.base import Agent
from agents.services import Services
from catalog.quantities import longitude, night_of
from dtscore.errors import DtsError
from dtscore.monitoring import say
from dtscore.names import check_lfn
from imagebuilder import exposures
from imagebuilder.cache import has_rows, open_frames
from imagebuilder.camera import find_camera
from imagebuilder.records import Due, Reservation
from reqdb import store
from reqdb.spec import BUILD, FORWARD, TRANSFER, FileSpec, OperationSpec, RequestSpec

log = structlog.get_logger()


class ExposureAgent(Agent):
    """Submits the requests that build exposures."""

    kind = "exposure"

    def __init__(self, services: Services) -> None:
        """Keep the builder's settings."""
        super().__init__(services)
        self._builder = services.config.imagebuilder
        self._longitudes: dict[str, float | None] = {}

    def run_once(self, wake: threading.Event | None = None) -> Counter[str]:
        """Submit a request for each exposure that is due; return how many."""
        settings = self._builder
        with self.services.database.read() as connection:
            found = exposures.due(
                connection, self.services.node, partial_after=settings.partial_after, settle=settings.settle
            )
        summary: Counter[str] = Counter()
        for due in found:
            if self.draining:
                break
            try:
                summary.update(self._submit(due))
            except DtsError as error:
                log.error("an exposure cannot be built", exposure=due.exposure, error=error.message, hint=error.hint)
        if summary:
            self.services.poke([BUILD])
        return summary

    def _submit(self, due: Due) -> Counter[str]:
        if not due.detectors and due.version == 1 and not self._has_pixels(due):
            return Counter()
        lfn = check_lfn(self._lfn(due))

        def reserve(connection: Connection) -> Reservation | None:
            reserved = exposures.reserve_file(connection, due, lfn, self.services.node)
            if reserved is not None:
                submitted = store.submit(
                    connection, self.request(reserved), owner=self._builder.owner, origin="image builder"
                )
                exposures.requested(connection, reserved.exposure, reserved.version, submitted.id)
            return reserved

        reserved = self.services.database.run(reserve)
        if reserved is None:
            return Counter()
        kind = "partial" if reserved.missing else "complete"
        log.info("exposure is due", exposure=due.exposure, version=reserved.version, lfn=lfn, kind=kind)
        say(self.services.config, "exposure", exposure=due.exposure, camera=due.camera, state=f"due, {kind}", path=lfn)
        return Counter({kind: 1})

    def request(self, reserved: Reservation) -> RequestSpec:
        """Return the request that builds a reserved version: build, and the further steps of the configuration."""
        settings, files = self._builder, (FileSpec(reserved.lfn),)
        numbers = (("exposure", reserved.exposure), ("version", reserved.version), ("assignment", reserved.assignment))
        options = tuple((name, str(number)) for name, number in numbers)
        build = OperationSpec(BUILD, files, None, (settings.target,), reserved.node, options)
        steps = tuple(
            OperationSpec(kind, files, settings.target if kind in (TRANSFER, FORWARD) else None, targets)
            for kind, targets in settings.then
        )
        # The moment of the reservation makes the name unique: a version that was abandoned is asked for once more.
        name = f"{reserved.label}-v{reserved.version}-{reserved.made_at:%Y%m%dT%H%M%S.%f}"
        return RequestSpec((build, *steps), name=name, owner=settings.owner, priority=settings.priority)

    def _has_pixels(self, due: Due) -> bool:
        """Whether anything came of frames none of which is whole: a PAN may begin long before it reads out."""
        return has_rows(open_frames(self._builder.cache_folder, due.exposure, due.assignment).values())

    def _lfn(self, due: Due) -> str:
        """Return the logical name of the next version of an exposure."""
        version = "" if due.version == 1 else f"_v{due.version}"
        name = self._builder.lfn.format(
            camera=due.camera, night=night_of(due.begun_at, self._east(due.camera)), label=due.label,
            exposure=due.exposure, program=due.program or "none", version=version,
        )  # fmt: skip
        return f"{name}.fz" if self._builder.compress else name

    def _east(self, camera: str) -> float | None:
        """Return the longitude of a camera's site, in degrees east; its header constant counts it west positive."""
        if camera not in self._longitudes:
            constants = find_camera(camera, [self._builder.cameras]).cards.constants
            west = next((longitude(card.value) for card in constants if card.keyword == "OBS-LONG"), None)
            self._longitudes[camera] = None if west is None else -west
        return self._longitudes[camera]
