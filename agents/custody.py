"""Whether a next site has good copies of what was handed over to it: then it is not ours to keep any more.

The next site may have moved the file from where we put it before our own copy is purged. What it says counts from its
catalog: nothing is registered there that was not read and found right.
"""

from __future__ import annotations

import structlog

from dtscore.config import Config
from dtscore.database import Database
from dtscore.errors import DtsError
from dtsnet.remotes import remote
from reqdb.hops import MOST_HOPS, Onward, handed_over

log = structlog.get_logger()


def vouching(
    database: Database, config: Config, request_id: int, lfn: str, size: int, checksum: str, hops: int = MOST_HOPS
) -> list[str]:
    """Return the remotes that a request handed a file over to and that have good copies of it, here or further on."""
    with database.read() as connection:
        onward = handed_over(connection, request_id, lfn)
    return [one.site for one in onward if hops > 0 and _ask(config, one, lfn, size, checksum, hops - 1)]


def _ask(config: Config, onward: Onward, lfn: str, size: int, checksum: str, hops: int) -> bool:
    """Ask a remote; one that cannot be asked vouches for nothing."""
    try:
        there = remote(config, onward.site)
        try:
            return there.call("custody", str(onward.request_id), lfn, size, checksum, hops) is True
        finally:
            there.close()
    except DtsError as error:
        log.warning("a remote does not vouch", remote=onward.site, lfn=lfn, error=error.message)
        return False
