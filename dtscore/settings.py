"""The one table of settings: every section and key of dts.ini with its kind, default and meaning."""

from __future__ import annotations

from dtscore.setting import Setting, Value
from dtscore.settings_queueing import QUEUEING

__all__ = ["AGENT_NAMES", "NAMED", "SETTINGS", "Setting", "Value", "fixed", "template"]

AGENT_NAMES = (
    "import", "transfer", "register", "remove", "verify", "deliver", "forward", "queue", "exposure", "build",
)  # fmt: skip
"""Agents that may have a section [agent.NAME]."""

SETTINGS: tuple[Setting, ...] = (
    Setting("site", "name", "text", "dts", "Name of this installation, shown in listings and logs."),
    Setting("site", "folder", "path", "", "Folder against which relative paths resolve; empty: the parent of etc/."),
    Setting("site", "node", "text", "", "Name of this host for node affinity; empty: the host name."),
    Setting(
        "database",
        "url",
        "url",
        "sqlite:///var/dts.db",
        "The request database: sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME.",
    ),
    Setting(
        "database", "password_file", "path", "", "File of mode 0600 that holds the database password; empty: none."
    ),
    Setting("spool", "folder", "path", "var/spool", "Spool folder with ToDo, Running, Done and Failed inside."),
    Setting("limits", "max_bytes", "size", "512 MiB", "Largest request file that is read.", 1),
    Setting("limits", "max_files", "count", "1000000", "Most files in one request.", 1),
    Setting("limits", "max_depth", "count", "16", "Deepest nesting of elements in a request file.", 3),
    Setting("limits", "max_elements", "count", "4000000", "Most elements and comments in a request file.", 1),
    Setting("limits", "max_attribute_bytes", "size", "4 MiB", "Longest attribute value in a request file.", 1),
    Setting(
        "agents",
        "poll_interval",
        "duration",
        "5 s",
        "Pause between two looks for work when nobody pokes the agent.",
        0.01,
    ),
    Setting(
        "agents",
        "heartbeat",
        "duration",
        "5 s",
        "How often an agent writes its heartbeat, which renews its leases.",
        0.01,
    ),
    Setting(
        "agents", "lease", "duration", "30 s", "How long claimed files stay an agent's after its last heartbeat.", 0.1
    ),
    Setting("agents", "grace", "duration", "30 s", "How long running files may take to finish after SIGTERM.", 0),
    Setting("agents", "workers", "count", "8", "Files that one agent works on at the same time.", 1),
    Setting("agents", "batch", "count", "100", "Most files that one claim takes.", 1),
    Setting("agents", "element_limit", "count", "4", "Files in work at once on one storage element.", 1),
    Setting("agents", "channel_limit", "count", "4", "Files in work at once on one channel (source to target).", 1),
    Setting("agent.NAME", "workers", "count", None, "As agents.workers, for this agent alone.", 1),
    Setting("agent.NAME", "batch", "count", None, "As agents.batch, for this agent alone.", 1),
    Setting("agent.NAME", "poll_interval", "duration", None, "As agents.poll_interval, for this agent alone.", 0.01),
    Setting("retry", "attempts", "count", "5", "Attempts at one file before a temporary error fails it.", 1),
    Setting("retry", "base", "duration", "5 s", "First pause before another attempt; it doubles each time.", 0),
    Setting("retry", "longest", "duration", "1 h", "Longest pause before another attempt.", 0),
    Setting("retry", "outage_longest", "duration", "30 s", "Longest pause while a storage element does not answer.", 0),
    Setting("timeout", "base", "duration", "600 s", "Time that every attempt at a file may take.", 0.1),
    Setting("timeout", "per_mb", "duration", "2 s", "Further time for each MB (1,000,000 bytes) of the file.", 0),
    Setting("trash", "grace", "duration", "7 d", "How long a removed replica stays in the trash.", 0),
    Setting("cache", "folder", "path", "var/cache", "Folder for copies that need two hops."),
    Setting(
        "deliver", "folder", "path", "var/delivered", "Folder for copies where no [delivery NAME] is named."
    ),
    Setting("run", "folder", "path", "var/run", "Folder for poke sockets and pid files."),
    Setting("dtsq", "folder", "path", "var/dtsq", "Folder for what dtsq was asked for and has not ended, and its log."),
    Setting("dtsq", "tokens", "path", "", "Folder for token files, NAME.dtsq; empty: beside the file itself."),
    Setting(
        "dtsq", "remote_wait", "duration", "50 ms", "How long dtsq waits for a word of the site that its queue feeds."
    ),
    Setting(
        "imagebuilder",
        "node",
        "choice",
        "no",
        "Whether `dts run` starts a builder node here, with its agents `exposure` and `build`.",
        0,
        ("yes", "no"),
    ),
    Setting(
        "imagebuilder", "supervisor", "choice", "no", "Whether `dts run` starts a supervisor here.", 0, ("yes", "no")
    ),
    Setting("imagebuilder", "host", "text", "127.0.0.1", "Address on which node and supervisor listen."),
    Setting("imagebuilder", "address", "text", "", "Address at which PANs reach this host; empty: as host."),
    Setting("imagebuilder", "port", "count", "7731", "TCP port of the node; 0: any free one.", 0),
    Setting("imagebuilder", "supervisor_port", "count", "7730", "TCP port of the supervisor; 0: any free one.", 0),
    Setting(
        "imagebuilder", "secret_file", "path", "etc/pan.secret", "File of mode 0600 with the secret that PANs share."
    ),
    Setting(
        "imagebuilder",
        "numbers_file",
        "path",
        "var/exposure.numbers",
        "File with the highest exposure number known here: numbers stay unique when the database is restored.",
    ),
    Setting("imagebuilder", "previews", "path", "var/previews", "Folder for pictures of what was built; empty: none."),
    Setting("imagebuilder", "peers", "text", "127.0.0.0/8 ::1", "Networks from which PANs may connect."),
    Setting("imagebuilder", "cameras", "path", "etc/cameras", "Folder with the site's own cameras, NAME.ini."),
    Setting("imagebuilder", "cache", "size", "3 GiB", "Shared memory for the frame cache, taken at start.", 1),
    Setting(
        "imagebuilder", "page", "size", "18 MiB", "Shared memory for one detector; a larger one is refused.", 65536
    ),
    Setting("imagebuilder", "cache_folder", "path", "", "Folder of the frame cache; empty: /dev/shm/dts-SITE-NODE."),
    Setting("imagebuilder", "block", "size", "4 MiB", "Most bytes of pixels in one block; 16 MiB at most.", 4096),
    Setting("imagebuilder", "idle", "duration", "60 s", "A connection that says nothing for so long is closed.", 0.1),
    Setting(
        "imagebuilder",
        "heartbeat",
        "duration",
        "1 s",
        "How often a node writes its heartbeat and looks for saved files.",
        0.01,
    ),
    Setting("imagebuilder", "stale", "duration", "10 s", "A node without a heartbeat for so long is dead.", 0.1),
    Setting(
        "imagebuilder",
        "partial_after",
        "duration",
        "60 s",
        "After so long without a further pixel an exposure is built with what is there.",
        0.1,
    ),
    Setting(
        "imagebuilder", "settle", "duration", "1 s", "How long a complete exposure waits for late header metadata.", 0
    ),
    Setting(
        "imagebuilder",
        "lfn",
        "text",
        "/{camera}/raw/{night}/{label}{version}.fits",
        "Name of a file: {camera}, {night}, {label}, {exposure}, {program}, and {version}, empty or _v2, _v3, ….",
    ),
    Setting("imagebuilder", "target", "text", "local", "Storage element on which files are built."),
    Setting(
        "imagebuilder",
        "then",
        "text",
        "",
        "Further steps of each file: transfer archive, verify archive, deliver archive, queue des.",
    ),
    Setting(
        "imagebuilder", "compress", "choice", "no", "Whether files are Rice-compressed (.fits.fz).", 0, ("no", "rice")
    ),
    Setting("imagebuilder", "owner", "text", "camera", "Owner of the requests that build exposures."),
    Setting("imagebuilder", "priority", "count", "7", "Priority of these requests, 0 to 9."),
    Setting(
        "log",
        "level",
        "choice",
        "info",
        "Least severe message that is logged.",
        0,
        ("debug", "info", "warning", "error"),
        live=True,
    ),
    Setting(
        "log",
        "format",
        "choice",
        "console",
        "console: for people; json: one JSON object a line.",
        0,
        ("console", "json"),
    ),
    Setting("log", "file", "path", "", "Log file; empty: standard error."),
    Setting("dtsd", "host", "text", "127.0.0.1", "Address on which the daemon listens; off loopback TLS is required."),
    Setting("dtsd", "port", "count", "7740", "TCP port of calls; 0: any free one."),
    Setting("dtsd", "root", "path", "data", "The folder that callers see; no path leads out of it."),
    Setting("dtsd", "users_file", "path", "etc/dtsd.users", "File of mode 0600 with the users, NAME ROLE SECRET each."),
    Setting("dtsd", "certificate_file", "path", "", "The daemon's certificate (PEM); with it, calls go over TLS."),
    Setting("dtsd", "key_file", "path", "", "Private key of the certificate, a file of mode 0600."),
    Setting(
        "dtsd",
        "client_ca",
        "path",
        "",
        "Certificates (PEM) that client certificates are checked against; a client's CN is its user. Empty: none.",
    ),
    Setting("dtsd", "window", "duration", "300 s", "How far the clocks of caller and daemon may be apart.", 1),
    Setting("dtsd", "connections", "count", "128", "Connections served at once; more wait, then are told 503.", 1),
    Setting(
        "dtsd", "patience", "duration", "20 s", "Within so long a request must have come whole.", 0.1, live=True
    ),
    Setting("dtsd", "idle", "duration", "60 s", "A connection without a call for so long is closed.", 0.1, live=True),
    Setting("dtsd", "call_limit", "duration", "1 h", "How long a call may work at most.", 0.1, live=True),
    Setting("dtsd", "max_body", "size", "4 MiB", "Largest body of a call.", 1024, live=True),
    Setting("dtsd", "grace", "duration", "30 s", "How long calls may take to finish after SIGTERM or for a restart."),
    Setting("dtsd", "data_host", "text", "", "Address on which data connections are taken; empty: as host."),
    Setting("dtsd", "data_port", "count", "7741", "TCP port of data connections; 0: any free one."),
    Setting("dtsd", "data_address", "text", "", "Address at which others reach data_host; empty: as data_host."),
    Setting(
        "dtsd", "data_tls", "choice", "no", "Whether data goes over TLS too, with that certificate.", 0, ("yes", "no")
    ),
    Setting("dtsd", "transfers", "count", "32", "Transfers at once at most; more are refused for the moment.", 1),
    Setting("dtsd", "streams", "count", "16", "Data connections of one transfer at most.", 1),
    Setting("dtsd", "rate", "size", "0", "Bytes a second that the site sends at most, all transfers together; 0: any."),
    Setting("dtsd", "monitor_port", "count", "7742", "TCP port on which watchers attach; 0: any free one."),
    Setting("dtsd", "monitor_watchers", "count", "32", "Watchers that are served at once.", 1),
    Setting("remote.NAME", "url", "url", None, "Where that site's daemon is: https://HOST:7740/RPC2."),
    Setting("remote.NAME", "user", "text", "", "Who we are there."),
    Setting("remote.NAME", "secret_file", "path", "", "File of mode 0600 with our secret there; empty: none."),
    Setting("remote.NAME", "ca_file", "path", "", "Certificates that are trusted there; empty: the system's."),
    Setting("remote.NAME", "certificate_file", "path", "", "Our client certificate (PEM), instead of a secret."),
    Setting("remote.NAME", "key_file", "path", "", "Private key of our client certificate, a file of mode 0600."),
    Setting("remote.NAME", "timeout", "duration", "60 s", "How long a call there may take.", 0.1),
    Setting("se.NAME", "type", "text", None, "Kind of the storage element: file, sftp, fsspec or dts."),
    Setting("se.NAME", "limit", "count", None, "As agents.element_limit, for this storage element alone.", 1),
    *QUEUEING,
    Setting("channel.SOURCE.TARGET", "limit", "count", None, "As agents.channel_limit, for this channel alone.", 1),
)
"""All settings. In [se.NAME] every further key is an option of the storage element's type."""


NAMED = tuple(dict.fromkeys(one.section.partition(".")[0] for one in SETTINGS if one.section.endswith(".NAME")))
"""The first words of sections that a site names itself, such as [queue des], which is the same as [queue.des]."""


def fixed() -> tuple[Setting, ...]:
    """Return the settings of sections with a fixed name, which all have a default."""
    return tuple(setting for setting in SETTINGS if "." not in setting.section)


def template(section: str) -> dict[str, Setting]:
    """Return the settings of a section by key; `section` is written as in the table, such as 'agent.NAME'."""
    return {setting.key: setting for setting in SETTINGS if setting.section == section}
