"""Where watchers attach, and how many do."""

from __future__ import annotations

from dtsd.server.site import Site
from dtsd.server.table import Caller, Method
from dtsnet.xmlrpc import Value


def monitor(site: Site, _caller: Caller) -> Value:
    """Say where the monitor listens."""
    return {"port": site.monitor.port, "watchers": site.monitor.watchers, "tls": site.tls is not None}


METHODS = (
    Method("monitor", "read", (), "struct", "Says where watchers attach: port, watchers, tls. See dtsmon.", monitor),
)
