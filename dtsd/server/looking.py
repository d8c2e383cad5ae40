"""What the doctor says of the site's daemon: whether it could start, and whether it answers."""

from __future__ import annotations

from dtscore.config import Config
from dtscore.errors import DtsError, StreamLostError
from dtsd.health import Finding
from dtsd.server.guard import load_users
from dtsd.server.tls import make_context
from dtsnet.credentials import User
from dtsnet.rpc import Address, Remote

_SECONDS = 10.0


def finding(config: Config) -> Finding:
    """Look at users, certificate and the running daemon; a site that runs none is warned of it, and no more."""
    settings = config.dtsd
    try:
        users = load_users(settings.users_file)
        make_context(settings)
    except DtsError as error:
        return "warn", f"dtsd cannot start: {error.message}", error.hint
    where = f"{settings.host}:{settings.port}"
    signing = [user for user in users.values() if user.secret]
    if not signing:
        return "ok", "dtsd is not asked: all its users show certificates", ""
    try:
        found = _ask(config, signing[0])
    except StreamLostError:
        return "warn", f"no dtsd answers on {where}", "start it: dtsd run"
    except DtsError as error:
        return "fail", f"dtsd on {where}: {error.message}", error.hint
    return "ok", f"dtsd answers on {where}: version {found} for {len(users)} users", ""


def _ask(config: Config, user: User) -> str:
    """Return the version of the daemon that answers; raises DtsError."""
    settings = config.dtsd
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104  # nothing listens here
    scheme = "https" if settings.certificate_file else "http"
    shown = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{shown}:{settings.port}/RPC2"
    address = Address(url, user.name, user.secret, ca_file=settings.certificate_file, timeout=_SECONDS)
    remote = Remote(address)
    try:
        return str(remote.call("version"))
    finally:
        remote.close()
