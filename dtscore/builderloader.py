"""From the section [imagebuilder] to its settings, each value checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dtscore.config import Config, ImageBuilderSettings, SiteSettings
from dtscore.errors import ConfigurationError
from dtscore.inifile import nearest
from dtscore.queueing import ANY_QUEUE

_FIELDS = {"camera": "", "night": "", "label": "", "exposure": 0, "program": "", "version": ""}
_STEPS = ("transfer", "verify", "deliver")


def read_imagebuilder(section: Mapping[str, Any], site: SiteSettings) -> ImageBuilderSettings:
    """Return the image builder's settings; its storage elements are checked where they are known."""
    values = dict(section)
    for key in ("node", "supervisor", "compress"):
        values[key] = values[key] != "no"
    for key in ("secret_file", "numbers_file", "cameras"):
        if values[key] is None:
            raise ConfigurationError(f"[imagebuilder] {key} is empty", "write a path or leave the key out")
    values["address"] = values["address"] or values["host"]
    values["cache_folder"] = values["cache_folder"] or Path("/dev/shm") / f"dts-{_safe(site.name)}-{_safe(site.node)}"  # noqa: S108
    values["then"] = tuple(_step(words.split()) for words in values["then"].split(",") if words.strip())
    _check_lfn_template(values["lfn"])
    for key, most in (("port", 65535), ("supervisor_port", 65535), ("block", 1 << 24), ("priority", 9)):
        if values[key] > most:
            raise ConfigurationError(f"[imagebuilder] {key} = {values[key]} is too large", f"the most is {most}")
    return ImageBuilderSettings(**values)


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _step(words: list[str]) -> tuple[str, tuple[str, ...]]:
    """Return one step as (kind of operation, targets); `queue NAME` hands the file over to a queue of this site."""
    kind, *targets = words
    if kind == "queue" and len(targets) == 1:
        return "forward", (f":{targets[0]}",)
    if kind not in _STEPS or not targets:
        hint = f"write {', '.join(_STEPS)} and where to, or queue NAME (* leaves the choice to the routes)"
        raise ConfigurationError(f"[imagebuilder] then: {' '.join(words)!r} is not a step", hint)
    return kind, tuple(targets)


def _check_lfn_template(text: str) -> None:
    """Refuse a template that would give two exposures, or two versions of one, the same name."""
    place = f"[imagebuilder] lfn = {text}"
    try:
        text.format(**_FIELDS)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        known = ", ".join(f"{{{name}}}" for name in _FIELDS)
        raise ConfigurationError(f"{place}: {error} is not a field", f"the fields are: {known}") from error
    if not ("{label" in text or "{exposure" in text) or "{version" not in text or not text.startswith("/"):
        raise ConfigurationError(
            f"{place} does not name each version of each exposure",
            "begin with '/', and use {label} or {exposure}, and {version}",
        )


def check_steps(config: Config) -> None:
    """Refuse a step that hands files over to a queue that there is not."""
    for kind, targets in config.imagebuilder.then:
        queue = targets[0][1:] if kind == "forward" else ANY_QUEUE
        if queue != ANY_QUEUE and queue not in config.queues:
            hint = nearest(queue, config.queues) if config.queues else f"add a section [queue {queue}]"
            raise ConfigurationError(f"[imagebuilder] then: there is no queue {queue!r}", hint)
