"""The daemon itself: how it is, and ending it or starting it anew."""

from __future__ import annotations

import os
import time

import structlog

from dtscore.command import installed_version
from dtsd.methods.disk import disk_free, disk_used
from dtsd.server.site import Site
from dtsd.server.table import Caller, Method
from dtsnet.xmlrpc import Value

log = structlog.get_logger()

_PAGE = os.sysconf("SC_PAGE_SIZE")


def version(_site: Site, _caller: Caller) -> Value:
    """Return the version."""
    return installed_version()


def uptime(site: Site, _caller: Caller) -> Value:
    """Return how long the daemon runs."""
    return round(time.time() - site.started, 3)


def node_stat(site: Site, caller: Caller) -> Value:
    """Say how the daemon is."""
    config = site.config
    return {
        "site": config.site.name, "node": config.site.node, "version": installed_version(), "pid": os.getpid(),
        "time": time.time(), "uptime": round(time.time() - site.started, 3), "memory": memory(),
        "descriptors": len(os.listdir("/proc/self/fd")), "load": os.getloadavg()[0], "tls": site.tls is not None,
        "diskFree": disk_free(site, caller, ""), "diskUsed": disk_used(site, caller, ""), **site.counts(),
    }  # fmt: skip


def memory() -> int:
    """Return the bytes of memory that this process holds."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * _PAGE


def shutdown(site: Site, caller: Caller) -> Value:
    """End the daemon."""
    log.warning("the daemon is told to end", user=caller.user.name, peer=caller.address)
    site.shut_down()
    return True


def restart(site: Site, caller: Caller) -> Value:
    """Start the daemon anew."""
    log.warning("the daemon is told to start anew", user=caller.user.name, peer=caller.address)
    site.restart()
    return True


METHODS = (
    Method("version", "read", (), "string", "Returns the version of DTS.", version),
    Method("uptime", "read", (), "double", "Returns how many seconds the daemon runs.", uptime),
    Method("nodeStat", "read", (), "struct", "Says how the daemon is: site, node, version, pid, time, uptime (s), "
           "memory, diskFree and diskUsed (bytes), descriptors, threads, connections, working, calls, faults, refused, "
           "load, tls.", node_stat),
    Method("shutdown", "admin", (), "boolean",
           "Ends the daemon as SIGTERM does, after calls and transfers came to a safe point.", shutdown),
    Method("restart", "admin", (), "boolean",
           "Starts the daemon anew as SIGHUP does: reads dts.ini again, loses no connection.", restart),
)  # fmt: skip
