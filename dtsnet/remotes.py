"""The daemons of other sites, by the names that the configuration gives them."""

from __future__ import annotations

from dtscore.config import Config
from dtscore.errors import NotFoundError
from dtscore.inifile import nearest
from dtsnet.rpc import Address, Remote, read_key


def address(config: Config, name: str) -> Address:
    """Return the address of [remote NAME]; raises NotFoundError, and ConfigurationError for a bad secret file."""
    settings = config.remotes.get(name)
    if settings is None:
        hint = nearest(name, config.remotes) if config.remotes else f"add a section [remote {name}] to {config.path}"
        raise NotFoundError(f"there is no remote {name!r}", hint)
    secret = read_key(settings.secret_file, settings.user) if settings.secret_file is not None else b""
    return Address(
        settings.url, settings.user, secret, settings.ca_file, settings.certificate_file, settings.key_file,
        settings.timeout, name,
    )  # fmt: skip


def remote(config: Config, name: str) -> Remote:
    """Return the daemon of [remote NAME], not yet connected; raises NotFoundError and ConfigurationError."""
    return Remote(address(config, name))
