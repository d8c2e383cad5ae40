"""The examples of docs/pan-clients.md: the Python one sends an exposure, the C one compiles, the commands parse."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import threading
from pathlib import Path
from types import ModuleType

import click

from imagebuilder.pan_cli import main
from tests.imagebuilder.standing import StandingNode

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pan-clients.md").read_text()


def _block(kind: str) -> str:
    """Return the page's block of a language."""
    found = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_python_example_sends_an_exposure(tmp_path: Path, sqlite_url: str) -> None:
    """It returns where the exposure is saved."""
    (tmp_path / "example.py").write_text(_block("python"))
    example = _imported(tmp_path / "example.py")
    with StandingNode(tmp_path / "site", sqlite_url) as node:
        found: list[str] = []
        arguments = ([node.address], node.secret, tmp_path / "spool")
        thread = threading.Thread(target=lambda: found.append(example.take_exposure(*arguments)), daemon=True)
        thread.start()
        while thread.is_alive():
            node.build(partial_after=1000.0)
            thread.join(0.02)
        assert [lfn.lower() for lfn in found] == ["/f/duo_00000001_v1"]
        assert (node.images[1]["S1"] == 1000).all()


def test_the_c_example_compiles(tmp_path: Path) -> None:
    """Without a warning."""
    (tmp_path / "example.c").write_text(_block("c"))
    warnings = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{ROOT / 'clients' / 'c'}"]
    words = ["gcc", *warnings, "-c", str(tmp_path / "example.c"), "-o", str(tmp_path / "example.o")]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_commands_exist() -> None:
    """Each verb and each option that the page shows."""
    for line in _block("sh").splitlines():
        words = shlex.split(line)
        verb = main.commands[words[1]]
        options = {option for one in verb.params if isinstance(one, click.Option) for option in one.opts}
        assert {word for word in words if word.startswith("--")} <= options
