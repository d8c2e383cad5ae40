"""The configuration: which file counts, what is typed how, and what is refused with which words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from dtscore import settings
from dtscore.config import Config, describe, find, load, read_secret
from dtscore.errors import ConfigurationError

Write = Callable[[str, bytes], Path]


@pytest.fixture
def site(write_file: Write) -> Callable[..., Config]:
    """Load a configuration of the given text, as the etc/dts.ini of a site."""

    def make(text: str = "", **flags: str) -> Config:
        path = write_file("site/etc/dts.ini", text.encode())
        return load(path, {tuple(key.split("__")): value for key, value in flags.items()})  # type: ignore[misc]

    return make


def test_an_empty_file_is_a_whole_configuration(site: Callable[..., Config], tmp_path: Path) -> None:
    """Everything has a default, and relative paths start above etc/."""
    config = site()
    assert config.site.folder == tmp_path / "site"
    assert config.database.url == f"sqlite:///{tmp_path}/site/var/dts.db"
    assert config.spool.folder == tmp_path / "site/var/spool"
    assert config.agents.poll_interval == 5.0
    assert config.trash.grace == 7 * 86400
    assert config.timeout.seconds(10_000_000) == 620.0
    assert config.log.file is None
    assert config.site.node


def test_values_are_typed_and_units_understood(site: Callable[..., Config]) -> None:
    """Durations and sizes carry units, counts may group their digits."""
    config = site("[limits]\nmax_bytes = 10 GiB\nmax_files = 2,000,000\n[agents]\npoll_interval = 2 min\nlease=1 h\n")
    assert config.limits.max_bytes == 10 * 1024**3
    assert config.limits.max_files == 2_000_000
    assert config.agents.poll_interval == 120.0
    assert config.agents.lease == 3600.0


def test_percent_signs_are_plain_characters(site: Callable[..., Config]) -> None:
    """No interpolation: a URL with an escape in it survives."""
    assert site("[database]\nurl = postgresql+psycopg://u@h/n?host=%2Ftmp\n").database.url.endswith("%2Ftmp")


def test_environment_is_above_the_file_and_flags_above_both(
    site: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flag, then environment, then file, then default; and each value says where it came from."""
    text = "[agents]\nworkers = 2\nbatch = 3\npoll_interval = 4\n"
    monkeypatch.setenv("DTS_AGENTS_BATCH", "30")
    monkeypatch.setenv("DTS_AGENTS_POLL_INTERVAL", "40 s")
    config = site(text, agents__poll_interval="400")
    assert (config.agents.workers, config.agents.batch, config.agents.poll_interval) == (2, 30, 400.0)
    origins = {row.key: row.origin for row in describe(config) if row.section == "agents"}
    assert origins["workers"] == f"{config.path}:2"
    assert origins["batch"] == "environment DTS_AGENTS_BATCH"
    assert origins["poll_interval"] == "flag"
    assert origins["lease"] == "default"


def test_an_agent_has_its_own_section_above_the_shared_one(
    site: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """[agent.transfer] overrides [agents], key by key, and the environment both."""
    config = site("[agents]\nworkers = 5\nbatch = 50\n[agent.transfer]\nworkers = 9\n")
    assert (config.agent("transfer").workers, config.agent("transfer").batch) == (9, 50)
    assert config.agent("remove").workers == 5
    monkeypatch.setenv("DTS_AGENT_TRANSFER_WORKERS", "11")
    monkeypatch.setenv("DTS_AGENT_VERIFY_BATCH", "1")
    config = site("[agent.transfer]\nworkers = 9\n")
    assert config.agent("transfer").workers == 11
    assert config.agent("verify").batch == 1


def test_elements_take_any_option_and_paths_start_at_the_site(site: Callable[..., Config], tmp_path: Path) -> None:
    """What the type means is the storage room's business; names of local files are resolved for it."""
    text = "[se.local]\ntype = file\nroot = data\nlimit = 9\n[se.far]\ntype = sftp\nroot = data\nkey_file = etc/key\n"
    local, far = (site(text).elements[name] for name in ("local", "far"))
    assert (local.type, local.limit, local.options) == ("file", 9, {"root": str(tmp_path / "site/data")})
    assert (far.limit, far.options) == (4, {"root": "data", "key_file": str(tmp_path / "site/etc/key")})


def test_an_elements_option_from_the_environment(site: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """DTS_SE_NAME_KEY sets one option, with the longest name that fits."""
    monkeypatch.setenv("DTS_SE_A_B_HOST_NAME", "x.example.org")
    config = site("[se.a]\ntype=file\n[se.a-b]\ntype=sftp\n")
    assert config.elements["a-b"].options == {"host_name": "x.example.org"}
    assert config.elements["a"].options == {}


def test_channels_are_split_by_the_elements_there_are(site: Callable[..., Config]) -> None:
    """Names of storage elements may hold dots themselves."""
    config = site("[se.a.b]\ntype=file\n[se.c]\ntype=file\n[channel.a.b.c]\nlimit = 7\n")
    assert config.channel("a.b", "c").limit == 7
    assert config.channel("c", "a.b").limit == config.agents.channel_limit


@pytest.mark.parametrize(
    ("text", "place", "said", "hint"),
    [
        ("[agents]\nworkres = 3\n", ":2", "no key 'workres'", "'workers'"),
        ("[agent]\n", ":1", "no section [agent]", "'agents'"),
        ("\n\n[agent.transfre]\nworkers=1\n", ":3", "no agent 'transfre'", "'agent.transfer'"),
        ("[queu.des]\nsource = a\n", ":1", "no section [queu.des]", "did you mean 'queue.des'?"),
        ("[agents]\nworkers = many\n", ":2", "'many' is not a whole number", "digits"),
        ("[agents]\nworkers = 0\n", ":2", "too small", "least is 1"),
        ("[agents]\nlease = 5 lightyears\n", ":2", "not a duration", "2 min"),
        ("[limits]\nmax_bytes = big\n", ":2", "not a size", "64 KiB"),
        ("[log]\nlevel = loud\n", ":2", "not one of debug, info", "choose"),
        ("[agents]\nlease = 6 s\nheartbeat = 5 s\n", "", "shorter than two heartbeats", "three times"),
        ("[se.a]\nroot = x\n", ":1", "has no type", "type = file"),
        ("[se.a/b]\ntype = file\n", ":1", "is not a name", "letters"),
        ("[se.a]\ntype=file\n[channel.a.b]\nlimit=1\n", ":3", "two storage elements", ""),
        ("[spool]\nfolder =\n", "", "folder is empty", "path"),
        ("workers = 3\n", "", "no ini file", "[section]"),
        ("[agents]\nworkers = 3\nworkers = 4\n", "", "already exists", "[section]"),
        ("[DEFAULT]\nworkers = 3\n", ":1", "no section [DEFAULT]", "known"),
        ("[agents]\nworkers : 3\n", "", "no ini file", "key = value"),
    ],
)
def test_what_is_wrong_is_refused_with_place_and_hint(
    site: Callable[..., Config], text: str, place: str, said: str, hint: str
) -> None:
    """An unknown name suggests the nearest one, a wrong value says what was expected, and both say where."""
    with pytest.raises(ConfigurationError) as caught:
        site(text)
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert f"dts.ini{place}" in caught.value.message or not place


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("DTS_AGENTS_WORKRES", "'DTS_AGENTS_WORKERS'"),
        ("DTS_DATABSE_URL", "'DTS_DATABASE_URL'"),
        ("DTS_LOG_X", "'DTS_LOG_FILE'"),
    ],
)
def test_a_misspelt_variable_is_refused(
    site: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    """A variable that nobody reads would be a silent mistake."""
    monkeypatch.setenv(name, "3")
    with pytest.raises(ConfigurationError) as caught:
        site()
    assert name in caught.value.message
    assert hint in caught.value.hint


def test_a_foreign_variable_is_left_alone(site: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs may begin their variables with DTS_ too."""
    monkeypatch.setenv("DTS_XYZZY", "3")
    assert site().agents.workers == 8


def test_a_file_that_is_not_utf8_is_refused(write_file: Write) -> None:
    """Another encoding is one clear error."""
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(write_file("dts.ini", "[site]\nname = Söder\n".encode("latin-1")))


def test_the_first_file_found_wins(write_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, $DTS_CONFIG, ./etc/dts.ini, ~/.config/dts/dts.ini; never two of them merged."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    home = write_file("home/.config/dts/dts.ini", b"[agents]\nbatch = 1\n")
    monkeypatch.chdir(tmp_path)
    assert find() == home
    here = write_file("etc/dts.ini", b"[agents]\nworkers = 1\n")
    assert find() == here
    assert load().agents.batch == 100
    named = write_file("named/etc/dts.ini", b"")
    monkeypatch.setenv("DTS_CONFIG", str(named))
    assert find() == named
    assert find(here) == here
    assert find(tmp_path / "named") == named, "a site's folder stands for its configuration"


def test_no_configuration_at_all_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named file that is missing is an error and never replaced by another one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        find()
    assert "etc/dts.ini" in caught.value.message
    assert "dts init" in caught.value.hint
    monkeypatch.setenv("DTS_CONFIG", str(tmp_path / "absent.ini"))
    with pytest.raises(ConfigurationError, match=r"absent\.ini"):
        find()


def test_secrets_are_never_shown(site: Callable[..., Config]) -> None:
    """Neither `describe` nor `repr` give a password away."""
    config = site(
        "[database]\nurl = postgresql+psycopg://dts:t0psecret@db/dts\n[se.s]\ntype=fsspec\nsecret_key = t0psecret\n"
    )
    assert "t0psecret" in config.database.url
    assert "t0psecret" not in repr(config)
    assert not [row for row in describe(config) if "t0psecret" in row.value]
    assert any(row.value == "postgresql+psycopg://dts:(hidden)@db/dts" for row in describe(config))


def test_the_database_password_comes_from_a_file(site: Callable[..., Config], write_file: Write) -> None:
    """The password is quoted into the URL; a URL that has one already is refused."""
    write_file("site/etc/pw", b"p@ss/w\n").chmod(0o600)
    text = "[database]\nurl = postgresql+psycopg://dts@db/dts\npassword_file = etc/pw\n"
    assert site(text).database.url == "postgresql+psycopg://dts:p%40ss%2Fw@db/dts"
    with pytest.raises(ConfigurationError, match="password of its own"):
        site(text.replace("dts@db", "dts:x@db"))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o700])
def test_a_secret_that_others_could_read_is_refused(write_file: Write, mode: int) -> None:
    """Only 0600 and 0400 will do."""
    path = write_file("secret", b"x\n")
    path.chmod(mode)
    with pytest.raises(ConfigurationError) as caught:
        read_secret(path)
    assert f"{mode:04o}" in caught.value.message
    assert "chmod 600" in caught.value.hint


def test_a_good_secret_is_read(write_file: Write, tmp_path: Path) -> None:
    """One line break at the end does not belong to it; an absent file is an error of ours."""
    path = write_file("secret", b"x y\r\n")
    path.chmod(0o400)
    assert read_secret(path) == "x y"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_secret(tmp_path / "absent")


def test_the_table_and_the_dataclasses_agree(site: Callable[..., Config]) -> None:
    """Each key of the table is a field of its section, and the other way round."""
    config = site()
    for section in {setting.section for setting in settings.fixed()} - {"database"}:
        typed = getattr(config, section)
        assert is_dataclass(typed)
        assert {f.name for f in fields(typed)} == set(settings.template(section))
    assert all(setting.doc.endswith((".", "none.", "fsspec.")) for setting in settings.SETTINGS)
