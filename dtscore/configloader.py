"""From ini file, environment and flags to a `Config`: find each value, check it, remember where it came from."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from dtscore.builderloader import check_steps, read_imagebuilder
from dtscore.config import (
    AgentSettings,
    AgentsSettings,
    ChannelSettings,
    Config,
    DatabaseSettings,
    DtsdSettings,
    DtsqSettings,
    ElementSettings,
    FolderSettings,
    LimitsSettings,
    LogSettings,
    RemoteSettings,
    RetrySettings,
    Row,
    SiteSettings,
    TimeoutSettings,
    TrashSettings,
    read_secret,
)
from dtscore.errors import ConfigurationError, NameRefusedError, UsageError
from dtscore.inifile import IniFile, nearest, read_ini
from dtscore.names import check_element_name
from dtscore.queueing import DELIVERY_VARIABLES
from dtscore.queueloader import read_queueing
from dtscore.settings import AGENT_NAMES, NAMED, SETTINGS, Setting, Value, fixed, template

S = TypeVar("S")

_PREFIX = "DTS_"
_OTHER_VARIABLES = ("DTS_CONFIG", "DTS_DEBUG", *DELIVERY_VARIABLES)
_SQLITE = "sqlite:///"
_MAY_BE_EMPTY = (("log", "file"), ("dtsq", "tokens"))
_URL_PASSWORD = re.compile(r"(://[^:/@]*:)[^@]*@")
_SECRET_KEY = re.compile(r"(password|passphrase|secret|token|secret_key|access_key)\Z")
_HIDDEN = "(hidden)"
_LAST_PORT = 65535
_PATH_ENDS = ("_file", "_folder", "known_hosts")  # options of storage elements that name something on this host


@dataclass(frozen=True, slots=True)
class _Found:
    """One value as it was written, and where."""

    text: str
    origin: str


class _Source:
    """All values that somebody wrote, by (section, key); what is not known is refused at once."""

    def __init__(self, ini: IniFile, environment: Mapping[str, str], flags: Mapping[tuple[str, str], str]) -> None:
        self.ini = ini
        self.elements = [name[3:] for name in ini.sections if name.startswith("se.")]
        self.channels = {
            name: _split_channel(ini, name, self.elements) for name in ini.sections if name.startswith("channel.")
        }
        self.found: dict[tuple[str, str], _Found] = {}
        self._take_file()
        self._take_environment(environment)
        for place, text in flags.items():
            self.found[place] = _Found(text, "flag")

    def keys(self, section: str) -> dict[str, Setting]:
        """Return the settings that a section may hold."""
        head = section.partition(".")[0] if "." in section else ""
        if head == "channel":
            return template("channel.SOURCE.TARGET")
        return template(f"{head}.NAME" if head in NAMED else section)

    def named(self, head: str) -> list[str]:
        """Return the sections of a kind that the site names itself, in the order of the file."""
        return [name for name in self.ini.sections if name.startswith(f"{head}.") and head in NAMED]

    def _take_file(self) -> None:
        for section, values in self.ini.sections.items():
            self._check_section(section)
            known = self.keys(section)
            for key, text in values.items():
                if key not in known and not section.startswith("se."):
                    raise ConfigurationError(
                        f"{self.ini.place(section, key)}: [{section}] has no key {key!r}", nearest(key, known)
                    )
                self.found[section, key] = _Found(text, self.ini.place(section, key))

    def _check_section(self, section: str) -> None:
        names = {setting.section for setting in SETTINGS if "." not in setting.section}
        place = self.ini.place(section)
        head, _, name = section.partition(".")
        own = {f"{word}.{name}" for word in NAMED} if name else set()
        if head == "agent" and name:
            if name not in AGENT_NAMES:
                hint = nearest(section, [f"agent.{name}" for name in AGENT_NAMES])
                raise ConfigurationError(f"{place}: there is no agent {name!r}", hint)
        elif head in NAMED and name:
            try:
                check_element_name(name)
            except NameRefusedError as error:
                raise ConfigurationError(f"{place}: [{section}]: {error.message}", error.hint) from error
        elif section not in names and section not in self.channels:
            raise ConfigurationError(f"{place}: there is no section [{section}]", nearest(section, names | own))

    def _take_environment(self, environment: Mapping[str, str]) -> None:
        variables = self._variables()
        for name, text in environment.items():
            if not name.startswith(_PREFIX) or name in _OTHER_VARIABLES:
                continue
            place = variables.get(name) or self._element_option(name)
            if place is not None:
                self.found[place] = _Found(text, f"environment {name}")
            else:
                self._refuse_variable(name, variables)

    def _variables(self) -> dict[str, tuple[str, str]]:
        """Return the name of the environment variable of every setting that may be given."""
        places = [(setting.section, setting.key) for setting in fixed()]
        places += [(f"agent.{name}", key) for name in AGENT_NAMES for key in template("agent.NAME")]
        places += [(section, key) for head in NAMED for section in self.named(head) for key in self.keys(section)]
        places += [(section, key) for section in self.channels for key in template("channel.SOURCE.TARGET")]
        return {variable_name(section, key): (section, key) for section, key in places}

    def _element_option(self, name: str) -> tuple[str, str] | None:
        for element in sorted(self.elements, key=len, reverse=True):
            head = variable_name(f"se.{element}", "")
            if name.startswith(head) and len(name) > len(head):
                return f"se.{element}", name[len(head) :].lower()
        return None

    def _refuse_variable(self, name: str, variables: Mapping[str, tuple[str, str]]) -> None:
        """Refuse what is meant for us: a known section's unknown key, or nearly a known name. Others' names pass."""
        hint = nearest(name, variables)
        sections = {variable.rpartition("_")[0] for variable in variables}
        if hint.startswith("did you mean") or any(name.startswith(f"{section}_") for section in sections):
            raise ConfigurationError(f"the environment variable {name} names no setting", hint)


def variable_name(section: str, key: str) -> str:
    """Return the environment variable of a setting: DTS_SECTION_KEY, with '_' for what is no letter or digit."""
    return _PREFIX + re.sub(r"[^A-Z0-9]", "_", f"{section}_{key}".upper())


def _split_channel(ini: IniFile, section: str, elements: Iterable[str]) -> tuple[str, str]:
    """Return (source, target) of a section [channel.SOURCE.TARGET], where the names themselves may hold dots."""
    known = set(elements)
    parts = section.removeprefix("channel.").split(".")
    pairs = [(".".join(parts[:cut]), ".".join(parts[cut:])) for cut in range(1, len(parts))]
    good = [pair for pair in pairs if pair[0] in known and pair[1] in known]
    if len(good) != 1:
        channels = [f"channel.{source}.{target}" for source in known for target in known if source != target]
        raise ConfigurationError(
            f"{ini.place(section)}: [{section}] does not name two storage elements", nearest(section, channels)
        )
    return good[0]


class _Reader:
    """Typed values out of a source, and the rows that describe them."""

    def __init__(self, source: _Source) -> None:
        self.source = source
        self.rows: list[Row] = []
        self.folder = Path()

    def value(self, setting: Setting, section: str, default: str) -> Value:
        """Return one typed value and note its row."""
        found = self.source.found.get((section, setting.key), _Found(default, "default"))
        try:
            value = setting.parse(found.text)
        except UsageError as error:
            place = f"{found.origin}: [{section}] {setting.key}"
            raise ConfigurationError(f"{place}: {error.message}", error.hint) from error
        self.rows.append(Row(section, setting.key, _shown(setting, found.text), found.origin, setting.doc))
        return value

    def section(self, name: str) -> dict[str, Any]:
        """Return the values of a section with a fixed name by key, paths resolved."""
        values: dict[str, Any] = {}
        for setting in template(name).values():
            value = self.value(setting, name, setting.default or "")
            values[setting.key] = self._path(str(value)) if setting.kind == "path" else value
        return values

    def names(self, head: str) -> list[str]:
        """Return the sections of a kind that the site names itself, in the order of the file."""
        return self.source.named(head)

    def place(self, section: str, key: str) -> str:
        """Return where a value was written."""
        found = self.source.found.get((section, key))
        return found.origin if found else self.source.ini.place(section)

    def named(self, section: str) -> dict[str, Any]:
        """Return the values of a section that the site names itself by key; a key without a default must be given."""
        values: dict[str, Any] = {}
        for setting in self.source.keys(section).values():
            if setting.default is None and (section, setting.key) not in self.source.found:
                place = self.source.ini.place(section)
                raise ConfigurationError(f"{place}: [{section}] has no {setting.key}", f"add: {setting.key} = …")
            value = self.value(setting, section, setting.default or "")
            values[setting.key] = self._path(str(value)) if setting.kind == "path" else value
        return values

    def _path(self, text: str) -> Path | None:
        return self.folder / Path(text).expanduser() if text else None

    def settings(self, kind: type[S], name: str) -> S:
        """Return a section as its dataclass."""
        values = self.section(name)
        for key in (f.name for f in fields(kind)):  # type: ignore[arg-type]
            if values[key] is None and (name, key) not in _MAY_BE_EMPTY:
                raise ConfigurationError(f"[{name}] {key} is empty", "write a path or leave the key out")
        return kind(**values)


def _shown(setting: Setting, text: str) -> str:
    return _URL_PASSWORD.sub(rf"\1{_HIDDEN}@", text) if setting.kind == "url" else text


def build(path: Path, environment: Mapping[str, str], flags: Mapping[tuple[str, str], str]) -> Config:
    """Return the configuration of one file, the environment and the flags; ConfigurationError for what is wrong."""
    reader = _Reader(_Source(read_ini(path), environment, flags))
    site = _site(reader, path)
    agents: AgentsSettings
    config = Config(
        path=path,
        site=site,
        database=_database(reader),
        spool=reader.settings(FolderSettings, "spool"),
        limits=reader.settings(LimitsSettings, "limits"),
        agents=(agents := reader.settings(AgentsSettings, "agents")),
        retry=reader.settings(RetrySettings, "retry"),
        timeout=reader.settings(TimeoutSettings, "timeout"),
        trash=reader.settings(TrashSettings, "trash"),
        cache=reader.settings(FolderSettings, "cache"),
        deliver=reader.settings(FolderSettings, "deliver"),
        run=reader.settings(FolderSettings, "run"),
        imagebuilder=read_imagebuilder(reader.section("imagebuilder"), site),
        dtsd=_dtsd(reader),
        dtsq=reader.settings(DtsqSettings, "dtsq"),
        log=reader.settings(LogSettings, "log"),
        remotes=(remotes := {name[7:]: _remote(reader, name) for name in reader.source.named("remote")}),
        elements={name: _of_site(_element(reader, name, agents), remotes) for name in reader.source.elements},
        own_agents={name: _agent(reader, name, agents) for name in AGENT_NAMES if _has_own(reader, name)},
        own_channels=_channels(reader, agents),
        queues=(queueing := read_queueing(reader, reader.source.elements)).queues,
        routes=queueing.routes,
        deliveries=queueing.deliveries,
        rows=tuple(reader.rows),
    )
    return _check(config)


def _site(reader: _Reader, path: Path) -> SiteSettings:
    home = path.parent.parent if path.parent.name == "etc" else path.parent
    reader.folder = home
    values = reader.section("site")
    reader.folder = values["folder"] or home
    return SiteSettings(values["name"], reader.folder, values["node"] or socket.gethostname())


def _database(reader: _Reader) -> DatabaseSettings:
    values = reader.section("database")
    url: str = values["url"]
    if url.startswith(_SQLITE) and url != _SQLITE and not url.startswith(f"{_SQLITE}:memory:"):
        file, mark, query = url[len(_SQLITE) :].partition("?")
        url = f"{_SQLITE}{reader.folder / Path(file).expanduser()}{mark}{query}"
    if values["password_file"] is not None:
        url = _with_password(url, read_secret(values["password_file"]))
    return DatabaseSettings(url)


def _dtsd(reader: _Reader) -> DtsdSettings:
    values = reader.section("dtsd")
    for key in ("root", "users_file"):
        if values[key] is None:
            raise ConfigurationError(f"[dtsd] {key} is empty", "write a path or leave the key out")
    for key in ("port", "data_port", "monitor_port"):
        if values[key] > _LAST_PORT:
            raise ConfigurationError(f"[dtsd] {key} = {values[key]} is too large", f"the most is {_LAST_PORT}")
    if (values["certificate_file"] is None) != (values["key_file"] is None):
        raise ConfigurationError("[dtsd] certificate_file and key_file need each other", "make both: dtsd certificate")
    values["data_host"] = values["data_host"] or values["host"]
    values["data_address"] = values["data_address"] or values["data_host"]
    values["data_tls"] = values["data_tls"] == "yes"
    if (values["data_tls"] or values["client_ca"]) and values["certificate_file"] is None:
        raise ConfigurationError("[dtsd] data_tls and client_ca need a certificate", "make one: dtsd certificate")
    return DtsdSettings(**values)


def _remote(reader: _Reader, section: str) -> RemoteSettings:
    values = reader.named(section)
    if (values["certificate_file"] is None) != (values["key_file"] is None):
        raise ConfigurationError(f"[{section}] certificate_file and key_file need each other", "name both or none")
    if values["secret_file"] is not None and not values["user"]:
        raise ConfigurationError(f"[{section}] has a secret_file, but no user", "add: user = NAME")
    return RemoteSettings(section.partition(".")[2], **values)


def _of_site(element: ElementSettings, remotes: Mapping[str, RemoteSettings]) -> ElementSettings:
    """Give an element of type dts the address that its remote names, unless it has a url of its own."""
    name = element.options.get("remote")
    if element.type != "dts" or not name or "url" in element.options:
        return element
    if name not in remotes:
        hint = nearest(name, remotes) if remotes else f"add a section [remote {name}]"
        raise ConfigurationError(f"[se.{element.name}] remote: there is no remote {name!r}", hint)
    found = asdict(remotes[name])
    del found["name"]
    address = {key: f"{value:g} s" if key == "timeout" else str(value) for key, value in found.items() if value}
    return replace(element, options={**element.options, **address})


def _with_password(url: str, password: str) -> str:
    head, mark, rest = url.partition("://")
    user, at, host = rest.partition("@")
    if not at or ":" in user:
        raise ConfigurationError(
            "[database] password_file is given, but url names no user or a password of its own",
            "write postgresql+psycopg://USER@HOST/NAME",
        )
    return f"{head}{mark}{user}:{quote(password, safe='')}@{host}"


def _element(reader: _Reader, name: str, agents: AgentsSettings) -> ElementSettings:
    section = f"se.{name}"
    settings = template("se.NAME")
    if (section, "type") not in reader.source.found:
        raise ConfigurationError(f"{reader.source.ini.place(section)}: [{section}] has no type", "add: type = file")
    kind = str(reader.value(settings["type"], section, ""))
    limit = int(reader.value(settings["limit"], section, str(agents.element_limit)))
    found = {key: one for (where, key), one in reader.source.found.items() if where == section and key not in settings}
    options = {}
    for key, one in found.items():
        is_path = (key == "root" and kind == "file") or key.endswith(_PATH_ENDS)
        options[key] = str(reader.folder / Path(one.text).expanduser()) if is_path and one.text else one.text
        shown = _HIDDEN if _SECRET_KEY.search(key) else options[key]
        reader.rows.append(Row(section, key, shown, one.origin, f"Option of the type {kind}."))
    return ElementSettings(name, kind, limit, options)


def _has_own(reader: _Reader, name: str) -> bool:
    return any(section == f"agent.{name}" for section, _ in reader.source.found)


def _agent(reader: _Reader, name: str, agents: AgentsSettings) -> AgentSettings:
    shared = {"workers": str(agents.workers), "batch": str(agents.batch), "poll_interval": f"{agents.poll_interval:g}"}
    values: dict[str, Any] = {
        key: reader.value(setting, f"agent.{name}", shared[key]) for key, setting in template("agent.NAME").items()
    }
    return AgentSettings(name, **values)


def _channels(reader: _Reader, agents: AgentsSettings) -> dict[tuple[str, str], ChannelSettings]:
    setting = template("channel.SOURCE.TARGET")["limit"]
    return {
        pair: ChannelSettings(*pair, int(reader.value(setting, section, str(agents.channel_limit))))
        for section, pair in reader.source.channels.items()
    }


def _check(config: Config) -> Config:
    """Refuse values that are each right but wrong together."""
    if config.agents.lease < 2 * config.agents.heartbeat:
        raise ConfigurationError(
            f"[agents] lease {config.agents.lease:g} s is shorter than two heartbeats of {config.agents.heartbeat:g} s",
            "make lease at least three times heartbeat, or files are taken from living agents",
        )
    check_steps(config)
    return config
