"""The configuration of a site: one ini file, the environment above it, command-line flags above both.

The file is the first one found of `--config`, `$DTS_CONFIG`, `./etc/dts.ini`, `~/.config/dts/dts.ini` and
`/etc/dts/dts.ini`; files are never merged. Every key stands in `dtscore.settings.SETTINGS`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dtscore.errors import ConfigurationError
from dtscore.queueing import DeliverySettings, QueueSettings, RouteSettings

CONFIG_VARIABLE = "DTS_CONFIG"


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """The installation: its name, the folder that relative paths resolve against, and this host's name."""

    name: str
    folder: Path
    node: str


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """The database's SQLAlchemy URL with its password, which is therefore kept out of `repr`."""

    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FolderSettings:
    """A section that names one folder: spool, cache, deliver or run."""

    folder: Path


@dataclass(frozen=True, slots=True)
class LimitsSettings:
    """Limits on request files; the names are those of `reqdb.xml.Limits`."""

    max_bytes: int
    max_files: int
    max_depth: int
    max_elements: int
    max_attribute_bytes: int


@dataclass(frozen=True, slots=True)
class AgentsSettings:
    """What all agents share; durations in seconds."""

    poll_interval: float
    heartbeat: float
    lease: float
    grace: float
    workers: int
    batch: int
    element_limit: int
    channel_limit: int


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One agent's own settings: [agent.NAME] over [agents]; `poll_interval` in seconds."""

    name: str
    workers: int
    batch: int
    poll_interval: float


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """How temporary errors are tried again; durations in seconds."""

    attempts: int
    base: float
    longest: float
    outage_longest: float


@dataclass(frozen=True, slots=True)
class TimeoutSettings:
    """How long one attempt may take: `base` seconds and `per_mb` seconds for each 1,000,000 bytes."""

    base: float
    per_mb: float

    def seconds(self, size: int) -> float:
        """Return the time-out in seconds for a file of `size` bytes."""
        return self.base + self.per_mb * size / 1e6


@dataclass(frozen=True, slots=True)
class TrashSettings:
    """How long (s) a removed replica stays in the trash."""

    grace: float


@dataclass(frozen=True, slots=True)
class ImageBuilderSettings:
    """The image builder of this host; durations in seconds, sizes in bytes.

    `then` is what follows the building of a file on `target`: (kind of operation, storage elements).
    """

    node: bool
    supervisor: bool
    host: str
    address: str
    port: int
    supervisor_port: int
    secret_file: Path
    numbers_file: Path
    previews: Path | None
    peers: str
    cameras: Path
    cache: int
    page: int
    cache_folder: Path
    block: int
    idle: float
    heartbeat: float
    stale: float
    partial_after: float
    settle: float
    lfn: str
    target: str
    then: tuple[tuple[str, tuple[str, ...]], ...]
    compress: bool
    owner: str
    priority: int

    @property
    def pages(self) -> int:
        """Return the number of pages of the frame cache."""
        return max(1, self.cache // self.page)


@dataclass(frozen=True, slots=True)
class DtsdSettings:
    """The site's daemon; durations in seconds, sizes in bytes. No certificate: calls go over plain TCP."""

    host: str
    port: int
    root: Path
    users_file: Path
    certificate_file: Path | None
    key_file: Path | None
    client_ca: Path | None
    window: float
    connections: int
    patience: float
    idle: float
    call_limit: float
    max_body: int
    grace: float
    data_host: str
    data_port: int
    data_address: str
    data_tls: bool
    transfers: int
    streams: int
    rate: int
    monitor_port: int
    monitor_watchers: int


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """The daemon of another site and who we are there; `timeout` in seconds bounds a call."""

    name: str
    url: str
    user: str
    secret_file: Path | None
    ca_file: Path | None
    certificate_file: Path | None
    key_file: Path | None
    timeout: float


@dataclass(frozen=True, slots=True)
class DtsqSettings:
    """The queueing program; `tokens` is None where token files go beside the files; durations in seconds."""

    folder: Path
    tokens: Path | None
    remote_wait: float


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Level, format (console or json) and file of the log; no file means standard error."""

    level: str
    format: str
    file: Path | None


@dataclass(frozen=True, slots=True)
class ElementSettings:
    """One storage element: its type, its limit of files in work at once, and the options of its type."""

    name: str
    type: str
    limit: int
    options: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """One channel: how many files may be in work on it at once."""

    source: str
    target: str
    limit: int


@dataclass(frozen=True, slots=True)
class Row:
    """One value as `dts config show` prints it; secrets are already hidden in `value`."""

    section: str
    key: str
    value: str
    origin: str
    doc: str


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration of a site, with every path absolute."""

    path: Path
    site: SiteSettings
    database: DatabaseSettings
    spool: FolderSettings
    limits: LimitsSettings
    agents: AgentsSettings
    retry: RetrySettings
    timeout: TimeoutSettings
    trash: TrashSettings
    cache: FolderSettings
    deliver: FolderSettings
    run: FolderSettings
    imagebuilder: ImageBuilderSettings
    dtsd: DtsdSettings
    dtsq: DtsqSettings
    log: LogSettings
    elements: Mapping[str, ElementSettings]
    remotes: Mapping[str, RemoteSettings]
    own_agents: Mapping[str, AgentSettings]
    own_channels: Mapping[tuple[str, str], ChannelSettings]
    queues: Mapping[str, QueueSettings]
    routes: tuple[RouteSettings, ...]
    deliveries: Mapping[str, DeliverySettings]
    rows: tuple[Row, ...] = field(repr=False)

    def agent(self, name: str) -> AgentSettings:
        """Return the settings of the agent `name`: its own section over [agents]."""
        shared = self.agents
        return self.own_agents.get(name) or AgentSettings(name, shared.workers, shared.batch, shared.poll_interval)

    def channel(self, source: str, target: str) -> ChannelSettings:
        """Return the settings of the channel from `source` to `target`."""
        own = self.own_channels.get((source, target))
        return own or ChannelSettings(source, target, self.agents.channel_limit)


def describe(config: Config) -> tuple[Row, ...]:
    """Return every value with its origin (default, file and line, environment, flag); secrets are hidden."""
    return config.rows


def load(path: Path | None = None, flags: Mapping[tuple[str, str], str] | None = None) -> Config:
    """Read the site's configuration; `flags` are values from the command line by (section, key).

    Raises ConfigurationError when no file is found, or for any unknown section or key and any wrong value.
    """
    from dtscore.configloader import build  # the loader needs the classes above

    return build(find(path), dict(os.environ), dict(flags or {}))


def find(path: Path | None = None) -> Path:
    """Return the absolute path of the one configuration file; a folder given as `path` stands for its etc/dts.ini."""
    named = path or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    if named is not None:
        named = named.expanduser()
        named = named / "etc" / "dts.ini" if named.is_dir() else named
        if not named.is_file():
            raise ConfigurationError(f"there is no configuration file {named}", "make a site with: dts init DIR")
        return named.absolute()
    places = (Path("etc/dts.ini"), Path("~/.config/dts/dts.ini").expanduser(), Path("/etc/dts/dts.ini"))
    for place in places:
        if place.is_file():
            return place.absolute()
    looked = ", ".join(str(place) for place in places)
    raise ConfigurationError(
        f"no configuration was found (looked for {looked})", "go into a site's folder, pass --config, or: dts init DIR"
    )


def read_secret(path: Path) -> str:
    """Return the content of a secret file without its last line break.

    Raises ConfigurationError unless it is a regular file of mode 0600 or 0400, so that nobody else can read it.
    """
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            mode = stat.S_IMODE(status.st_mode)
            if not stat.S_ISREG(status.st_mode) or mode not in (0o600, 0o400):
                raise ConfigurationError(f"the secret file {path} has mode {mode:04o}, not 0600", f"chmod 600 {path}")
            return stream.read().decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the secret file {path} cannot be read: {error}", "check its path and owner"
        ) from error
