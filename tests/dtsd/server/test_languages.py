"""XML-RPC clients that nobody here wrote, RPC::XML of Perl and xmlrpc of Ruby, driven by the scripts in clients/."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.dtsd.server.running import Running
from tests.services import find_program

CLIENTS = Path(__file__).parents[3] / "clients"
DOCUMENT = (
    '<request name="from-afar"><operation type="transfer" source="local" target="archive">'
    '<file lfn="/des/a.fits"/></operation></request>'
)


@pytest.fixture(params=["perl", "ruby"])
def language(request: pytest.FixtureRequest) -> str:
    """Both languages."""
    name: str = request.param
    return name


@pytest.fixture
def call(language: str, served: Running, tmp_path: Path) -> Caller:
    """Call the daemon by the script of a language."""
    return Caller(language, served, tmp_path)


class Caller:
    """The script of one language, with the admin's secret."""

    def __init__(self, language: str, served: Running, folder: Path) -> None:
        """Write the secret into a file."""
        script = CLIENTS / {"perl": "perl/dts.pl", "ruby": "ruby/dts.rb"}[language]
        secret = folder / "secret"
        secret.write_bytes(served.secrets["admin"] + b"\n")
        self.url = served.address().url
        self.command = [find_program(language), str(script)]
        self.secret = secret

    def __call__(self, method: str, *words: str, user: str = "admin") -> subprocess.CompletedProcess[str]:
        """Call a method."""
        command = [*self.command, self.url, user, str(self.secret), method, *words]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, encoding="utf-8")


def test_it_pings(call: Caller) -> None:
    """A signed request is taken, and the answer's signature is right by the other language's own HMAC."""
    done = call("ping")
    assert (done.stdout, done.returncode) == ("pong\n", 0), done.stderr


def test_sizes_beyond_4_gib(call: Caller, served: Running) -> None:
    """An i8 comes whole, and goes whole as an argument."""
    with (served.root / "big").open("wb") as stream:
        stream.truncate((5 << 30) + 3)
        stream.seek(5 << 30)
        stream.write(b"end")
    assert call("fsize", "big").stdout == f"{(5 << 30) + 3}\n"
    assert call("cat", "big", str(5 << 30), "10").stdout.strip() == "end"


def test_names_in_unicode(call: Caller, served: Running, language: str) -> None:
    """A name with umlauts, signs beyond 16 bits and XML's own characters is made, seen, and told as it is."""
    name = f"é ü 日本 𝛼 <&> {language}"
    assert call("mkdir", name).stdout == {"perl": "1\n", "ruby": "true\n"}[language]
    assert (served.root / name).is_dir()
    assert f"name: {name}\n" in call("dir").stdout


def test_a_fault(call: Caller) -> None:
    """Code and text of a fault arrive; so does the refusal of a stranger."""
    done = call("fsize", "nothing/here")
    assert done.returncode == 1
    assert "fault 28: fsize: No such file or directory" in done.stderr
    done = call("ping", "1")
    assert "fault 2: ping: 1 arguments, expected 0" in done.stderr
    done = call("ping", user="stranger")
    assert done.returncode != 0
    assert "401" in done.stderr or "Unauthorized" in done.stderr


def test_a_request(call: Caller, served: Running, tmp_path: Path, language: str) -> None:
    """A request file goes as bytes and becomes a request; sent again it is the same one."""
    document = tmp_path / "request.xml"
    document.write_text(DOCUMENT.replace("from-afar", f"from-{language}"))
    first = call("submitRequest", f"@{document}")
    assert first.returncode == 0, first.stderr
    assert f"name: from-{language}\n" in first.stdout
    again = call("submitRequest", f"@{document}")
    assert [line for line in again.stdout.splitlines() if line.startswith("id")] == [
        line for line in first.stdout.splitlines() if line.startswith("id")
    ]
    assert "owner: admin" in call("requestStatus", f"from-{language}").stdout


def test_what_there_is(call: Caller) -> None:
    """Introspection works as these languages know it."""
    assert "- fsize\n" in call("system.listMethods").stdout
    assert "64 bits" in call("system.methodHelp", "fsize").stdout
