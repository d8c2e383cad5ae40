"""From the sections [queue NAME], [route NAME] and [delivery NAME] to their settings, each value checked."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar

from dtscore.errors import ConfigurationError, UsageError
from dtscore.inifile import nearest
from dtscore.queueing import (
    ANY_QUEUE,
    DeliverySettings,
    Handover,
    Queueing,
    QueueSettings,
    RouteSettings,
    check_macros,
    parse_keywords,
    parse_size_comparison,
    parse_target,
)

T = TypeVar("T")

LFN_FIELDS = ("queue", "path", "name")
"""The fields of a queue's lfn template."""

_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Sections(Protocol):
    """What gives the typed values of the sections that a site names itself."""

    def names(self, head: str) -> list[str]:
        """Return the sections of a kind, such as `queue.des`, in the order of the file."""

    def named(self, section: str) -> dict[str, Any]:
        """Return the values of a section by key."""

    def place(self, section: str, key: str) -> str:
        """Return where a key stands."""


def read_queueing(sections: Sections, elements: Collection[str]) -> Queueing:
    """Return all queues, routes and deliveries; raises ConfigurationError for what is wrong, alone or together."""
    reader = _Queueing(sections, elements)
    deliveries = {one.name: one for one in map(reader.delivery, sections.names("delivery"))}
    queues = {one.name: one for one in (reader.queue(name, deliveries) for name in sections.names("queue"))}
    reader.check_handovers(queues)
    routes = tuple(reader.route(name, queues) for name in sections.names("route"))
    return Queueing(queues, routes, deliveries)


class _Queueing:
    """Reads the sections one by one."""

    def __init__(self, sections: Sections, elements: Collection[str]) -> None:
        self._sections = sections
        self._elements = elements

    def delivery(self, section: str) -> DeliverySettings:
        values = self._sections.named(section)
        command = self._try(section, "command", lambda: tuple(_words(values["command"])))
        if not command and values["folder"] is None:
            raise self._wrong(section, "", "has neither command nor folder", "say what is to become of the files")
        naming = self._try(section, "as", lambda: check_macros(values["as"]))
        if not naming or "/" in naming or "$P" in naming or "$D" in naming or "$L" in naming:
            raise self._wrong(section, "as", f"{naming!r} is not a file name", "write it like $F, or $Q-$F")
        if values["method"] == "move" and values["folder"] is None:
            raise self._wrong(section, "method", "move without a folder", "say where to: add folder")
        environment = tuple(values["environment"].split())
        for name in environment:
            if not _VARIABLE.match(name):
                raise self._wrong(section, "environment", f"{name!r} names no variable", "names alone, no values")
        return DeliverySettings(
            section.partition(".")[2], command, values["folder"], values["method"] == "move", naming,
            values["policy"], values["timeout"], environment, values["damaged"] == "flag",
        )  # fmt: skip

    def queue(self, section: str, deliveries: Mapping[str, DeliverySettings]) -> QueueSettings:
        values = self._sections.named(section)
        name = section.partition(".")[2]
        targets = self._try(section, "target", lambda: [parse_target(one) for one in values["target"].split()])
        elements = tuple(one for one in targets if isinstance(one, str))
        handovers = tuple(one for one in targets if isinstance(one, Handover))
        for element in (*elements, *filter(None, [values["source"]])):
            self._known(section, "target" if element in elements else "source", element, self._elements)
        if values["source"] in elements:
            raise self._wrong(section, "target", f"{values['source']!r} is the source too", "name another element")
        if values["delivery"]:
            self._known(section, "delivery", values["delivery"], deliveries)
        if not targets and not values["delivery"]:
            raise self._wrong(section, "", "has neither target nor delivery", "say where its files go")
        self._check_lfn(section, values["lfn"])
        return QueueSettings(
            name, values["type"], values["source"], values["folder"], tuple(values["pattern"].split()) or ("*",),
            values["complete"] == "marker", values["settle"], elements, handovers, values["lfn"], values["mode"],
            values["streams"], values["rate"], values["purge"] == "yes", values["delivery"],
            self._priority(section, values), values["interval"], self._start(section, values["start_time"]),
            values["owner"], values["reserve"],
        )  # fmt: skip

    def route(self, section: str, queues: Collection[str]) -> RouteSettings:
        values = self._sections.named(section)
        self._known(section, "queue", values["queue"], queues)
        sizes = self._try(
            section, "size", lambda: tuple(parse_size_comparison(one) for one in values["size"].split(",") if one)
        )
        keywords = self._try(section, "keywords", lambda: parse_keywords(values["keywords"]))
        files = tuple(values["file"].split())
        return RouteSettings(section.partition(".")[2], values["queue"], files, sizes, keywords)

    def check_handovers(self, queues: Mapping[str, QueueSettings]) -> None:
        """Refuse a queue of this site that hands over to one that there is not, or to itself."""
        for queue in queues.values():
            for handover in queue.handovers:
                if handover.remote or handover.queue == ANY_QUEUE:
                    continue
                section = f"queue.{queue.name}"
                self._known(section, "target", handover.queue, queues)
                if handover.queue == queue.name:
                    raise self._wrong(section, "target", f"{handover} is this queue itself", "name another queue")

    def _priority(self, section: str, values: Mapping[str, Any]) -> int:
        text = values["priority"].strip()
        if not text:
            return 9 if values["type"] == "priority" else 5
        if not (len(text) == 1 and text.isascii() and text.isdigit()):
            raise self._wrong(section, "priority", f"{text!r} is not a priority", "0 (lowest) to 9 (highest)")
        return int(text)

    def _start(self, section: str, text: str) -> float:
        match = _TIME.match(text.strip())
        if not match:
            raise self._wrong(section, "start_time", f"{text!r} is not a time of the day", "write it like 22:30 (UTC)")
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return 3600.0 * hours + 60.0 * minutes + seconds

    def _check_lfn(self, section: str, template: str) -> None:
        try:
            template.format(**dict.fromkeys(LFN_FIELDS, "x"))
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            known = ", ".join(f"{{{name}}}" for name in LFN_FIELDS)
            raise self._wrong(section, "lfn", f"{error} is not a field", f"the fields are: {known}") from error
        if not template.startswith("/") or not ("{path" in template or "{name" in template):
            raise self._wrong(section, "lfn", f"{template!r} does not name each file", "begin with '/', use {path}")

    def _known(self, section: str, key: str, word: str, known: Collection[str]) -> None:
        if word not in known:
            raise self._wrong(section, key, f"there is no {word!r}", nearest(word, known) if known else "add it first")

    def _try(self, section: str, key: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except UsageError as error:
            raise self._wrong(section, key, error.message, error.hint) from error

    def _wrong(self, section: str, key: str, what: str, hint: str) -> ConfigurationError:
        place = self._sections.place(section, key)
        return ConfigurationError(f"{place}: [{section}] {f'{key}: ' if key else ''}{what}", hint)


def _words(text: str) -> list[str]:
    """Split a command once, as a shell would split words, and check its macros; nothing else of a shell is meant."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text!r} cannot be split into words: {error}", "close the quotes") from error
    if words and "$" in words[0]:
        raise UsageError(f"the program {words[0]!r} holds a macro", "name the program itself")
    return [check_macros(word) for word in words]
