"""The configuration of the running daemon: every value may be read, some may be set while it runs."""

from __future__ import annotations

import structlog

from dtscore import logging
from dtscore.config import Config, Row
from dtscore.errors import NotFoundError, StateError
from dtscore.inifile import nearest
from dtscore.settings import SETTINGS, Setting
from dtsd.server.plain import plain
from dtsd.server.site import Site
from dtsd.server.table import Argument, Caller, Method
from dtsnet.xmlrpc import Value

log = structlog.get_logger()


def dts_get(site: Site, _caller: Caller, section: str, key: str) -> Value:
    """Return values with their origin."""
    rows = [row for row in site.config.rows if section in ("", row.section) and key in ("", row.key)]
    if not rows:
        known = {row.section if section not in _sections(site.config) else row.key for row in site.config.rows}
        raise NotFoundError(f"there is no setting [{section}] {key}".rstrip(), nearest(key or section, known))
    return [_struct(row) for row in rows]


def _sections(config: Config) -> set[str]:
    return {row.section for row in config.rows}


def _struct(row: Row) -> Value:
    setting = find(row.section, row.key)
    live = setting is not None and setting.live
    return plain({"section": row.section, "key": row.key, "value": row.value, "origin": row.origin, "live": live})


def find(section: str, key: str) -> Setting | None:
    """Return the setting of the table that a section's key is one of, None for a storage element's option."""
    named = f"{section.partition('.')[0]}.NAME"
    return next((one for one in SETTINGS if one.key == key and one.section in (section, named)), None)


def dts_set(site: Site, caller: Caller, section: str, key: str, value: str) -> Value:
    """Set one value."""
    setting = find(section, key)
    if setting is None or not any((row.section, row.key) == (section, key) for row in site.config.rows):
        known = {f"[{one.section}] {one.key}" for one in SETTINGS if one.live}
        raise NotFoundError(f"there is no setting [{section:.80}] {key:.80}", nearest(f"[{section}] {key}", known))
    if not setting.live:
        what = f"[{section}] {key} cannot change while the daemon runs"
        raise StateError(what, f"write it into {site.config.path} and call: restart")
    setting.parse(value)
    config = site.change(section, key, value)
    if section == "log":
        logging.set_up(config.log.level, config.log.format, config.log.file)
    log.warning("a setting was changed", section=section, key=key, value=value, user=caller.user.name)
    return next(_struct(row) for row in config.rows if (row.section, row.key) == (section, key))


def settable(site: Site, _caller: Caller) -> Value:
    """List what dtsSet may set."""
    rows = [(row, find(row.section, row.key)) for row in site.config.rows]
    return [_struct(row) for row, setting in rows if setting is not None and setting.live]


_SECTION = Argument("section", "string", "A section of dts.ini, such as dtsd or queue.des.", maximum=128)
_KEY = Argument("key", "string", "A key of the section.", maximum=128)

METHODS = (
    Method("dtsGet", "read", (
        Argument("section", "string", "A section of dts.ini, such as dtsd or queue.des; '' for all.", "", maximum=128),
        Argument("key", "string", "A key of the section; '' for all.", "", maximum=128),
    ), "array", "Returns section, key, value, origin and live (whether dtsSet may change it) of settings; secrets are "
        "never shown.", dts_get),
    Method("dtsSet", "admin", (
        _SECTION, _KEY, Argument("value", "string", "The value, as dts.ini has it.", maximum=4096),
    ), "struct", "Sets a live setting of the running daemon after the same checks as at its start. It holds over a "
        "graceful restart, and ends with the daemon: what is to stay stands in dts.ini.", dts_set),
    Method("dtsSettable", "read", (), "array", "Lists the settings that dtsSet may change.", settable),
)  # fmt: skip
