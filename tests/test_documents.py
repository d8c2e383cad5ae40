"""The written documents: links resolve, command lines parse, settings exist."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dtscore.settings import SETTINGS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
WALKED = [ROOT / "README.md", ROOT / "docs" / "tutorial.md", ROOT / "docs" / "runbook.md"]
PROGRAMS = {
    "dts": "dtsd.cli",
    "dts-request": "reqdb.cli",
    "dts-queue": "reqdb.queue_cli",
    "dts-agent": "agents.cli",
    "dts-catalog": "catalog.cli",
    "dts-accounting": "accounting.cli",
    "dts-ib": "dtsd.ib",
    "dts-pan": "imagebuilder.pan_cli",
}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SETTING = re.compile(r"`\[([a-z]+(?:\.[\w.]+)?)\] ([a-z_]+)`")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def _anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings get, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_resolve(page: Path) -> None:
    """Every relative link leads to a file that is there, and every anchor to a heading of that file."""
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{_name(page)} links to {target}"
        if anchor:
            assert anchor in _anchors(linked), f"{_name(page)} links to {target}"


def _command_lines(page: Path) -> Iterator[str]:
    """Give the command lines of a page: in code with and without a prompt, and in the text between backticks."""
    text = page.read_text()
    for kind, block in _FENCE.findall(text):
        for line in block.splitlines():
            if kind == "console" and line.startswith("$ "):
                yield line.removeprefix("$ ")
            elif kind == "sh":
                yield line
    yield from re.findall(r"`(dts(?:-\w+)? [^`]+)`", _prose(page))


def _simple_commands(line: str) -> Iterator[list[str]]:
    """Split a line of shell into its simple commands, without redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if word in {"|", "||", "&", "&&", ";"}:
            yield words
            words = []
        else:
            words.append(word)
    yield words


def _parse(words: list[str]) -> None:
    """Find the verb and its options in the click trees; raises AssertionError for what does not exist."""
    command: click.Command = importlib.import_module(PROGRAMS[words[0]]).main
    known = {option for parameter in command.params for option in (*parameter.opts, "--help", "--version")}
    for word in words[1:]:
        if word in {"<", ">", ">>", "…"}:
            return
        if isinstance(command, click.Group) and not word.startswith("-"):
            assert word in command.commands, f"{' '.join(words)}: there is no verb {word}"
            command = command.commands[word]
            known |= {option for parameter in command.params for option in parameter.opts}
        elif word.startswith("-") and word != "-":
            assert word.partition("=")[0] in known, f"{' '.join(words)}: there is no option {word}"


@pytest.mark.parametrize("page", WALKED, ids=_name)
def test_command_lines_parse(page: Path) -> None:
    """Every command line of ours names a program, a verb and options that exist."""
    found = 0
    for line in _command_lines(page):
        for words in _simple_commands(line.partition(" #")[0]):
            if words and words[0] in PROGRAMS and not any("|" in word for word in words):
                _parse(words)
                found += 1
    assert found >= 3


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_settings_exist(page: Path) -> None:
    """Every setting that a page names as `[section] key` stands in the table of settings."""
    known = {(setting.section.partition(".")[0], setting.key) for setting in SETTINGS}
    for section, key in _SETTING.findall(page.read_text()):
        if section != "se":
            assert (section.partition(".")[0], key) in known, f"{_name(page)}: [{section}] {key}"


@pytest.mark.parametrize("broken", ["dts-request sumbit a.xml", "dts-request submit --wiat a.xml", "dts db bakcup"])
def test_wrong_command_lines_are_found(broken: str) -> None:
    """A misspelt verb or option does not pass."""
    with pytest.raises(AssertionError):
        _parse(shlex.split(broken))
