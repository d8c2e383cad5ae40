"""The language of dtsh: what lines mean, and which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtscore.errors import UsageError
from dtsd import dtsh_verbs
from dtsd.dtsh_language import Values, expand, parse
from dtsd.dtsh_remote import arguments_of, verb_of
from dtsd.dtsh_shell import Shell
from dtsd.dtsh_verb import Command, read_words, value_of
from dtsd.methods import METHODS

VALUES = Values("script", ("/p/a b.fits", "2"), 3)


def words(text: str, values: Values = VALUES) -> list[list[str]]:
    """Return the words of each statement of a text."""
    return [expand(one.words, values, patterns=True) for one in parse(text, "script")]


def test_the_seeds_script() -> None:
    """Two background jobs with the script's first argument, whose blank does not split it."""
    text = "#!/usr/local/bin/dtsh -f\n\npush -t fnal $1 &\ngive -t brazil $1 &\n"
    assert words(text) == [["push", "-t", "fnal", "/p/a b.fits"], ["give", "-t", "brazil", "/p/a b.fits"]]
    assert [(one.background, one.line) for one in parse(text)] == [(True, 3), (True, 4)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("echo 'a  b'\"c d\"e\\ f", [["echo", "a  bc de f"]]),
        ("echo '' \"\" x#y # comment", [["echo", "", "", "x#y"]]),
        ("echo $# $? $0 ${2}0 \"$1\" '$1' \\$1", [["echo", "2", "3", "script", "20", "/p/a b.fits", "$1", "$1"]]),
        ('ls $@ "$@" "all: $*"', [["ls", "/p/a b.fits", "2", "/p/a b.fits", "2", "all: /p/a b.fits 2"]]),
        ("a;b ; c & d\\\n e", [["a"], ["b"], ["c"], ["d", "e"]]),
        ("\n\n # nothing\n;"[:-1], []),
    ],
)
def test_words(text: str, expected: list[list[str]]) -> None:
    """Quotes, comments, variables, joined lines and ends of commands."""
    assert words(text) == expected


@pytest.mark.parametrize(
    "text", ["echo 'x", 'echo "x', "a | b", "a > b", "a && b", "; a", "echo $HOME", "echo ${1", "`a`"]
)
def test_what_means_nothing_is_refused(text: str) -> None:
    """Whole scripts are refused before their first command, with the line."""
    with pytest.raises(UsageError, match="script, line 2"):
        parse(f"ping\n{text}", "script")


def test_an_argument_that_was_not_given_is_an_error() -> None:
    """A script that is called with too few does not go on with empty names."""
    with pytest.raises(UsageError, match=r"\$3 was not given"):
        words("push $3")


def test_patterns_mean_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a verb takes local files; quoted ones, and those that nothing matches, stay as they are."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.fits", "b.fits", "[x].fits"):
        Path(name).touch()
    assert words("put *.fits 'a*' \\*.fits no*") == [["put", "[x].fits", "a.fits", "b.fits", "a*", "*.fits", "no*"]]
    assert words("put $1*", Values("s", ("[x]",))) == [["put", "[x].fits"]]
    assert expand(parse("ls *.fits")[0].words, VALUES, patterns=False) == ["ls", "*.fits"]


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text breaks the parser; what it takes can be expanded."""
    try:
        for one in parse(text):
            expand(one.words, Values("s", tuple("123456789")), patterns=False)
    except UsageError:
        pass


@given(st.lists(st.text(min_size=1, max_size=20).filter(lambda text: "\x00" not in text), min_size=1, max_size=5))
def test_quoted_words_come_through(given_words: list[str]) -> None:
    """Whatever a word holds, single quotes carry it."""
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in given_words)
    assert words(quoted) == [given_words]


def _command(name: str, text: str) -> tuple[Command, list[Any]]:
    """Return a method's command with the arguments that its call would get."""
    method = next(one for one in METHODS if one.name == name)
    verb = verb_of(method)
    found, options = read_words(verb, expand(parse(f"x {text}")[0].words[1:], VALUES, patterns=False))
    running = Command(Shell(lambda: pytest.fail("no configuration is needed")), verb, found, options)
    return running, arguments_of(method, running)


def test_every_method_is_a_verb() -> None:
    """Under its own name, in any case of letters, and explained."""
    for method in METHODS:
        verb = dtsh_verbs.find(method.name)
        assert verb is not None
        assert dtsh_verbs.find(method.name.upper()) is not None
        assert method.name in verb.help()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("stat", "/raw/a.fits", ["raw/a.fits"]),
        ("stat", "", []),
        ("dir", "raw --limit 5", ["raw", 0, 5]),
        ("copy", "a.fits b.fits yes", ["a.fits", "b.fits", True]),
        ("copy", "--target site a.fits b.fits", ["a.fits", "b.fits"]),
        ("chmod", "a.fits 416", ["a.fits", 416]),
        ("touch", "a.fits --mtime 1.5", ["a.fits", 1.5]),
        ("checksum", "a.fits", ["a.fits"]),
    ],
)
def test_arguments_of_methods(name: str, text: str, expected: list[Any]) -> None:
    """They are words in their order, or options by their names; what is left out at the end is not sent."""
    assert _command(name, text)[1] == expected


@pytest.mark.parametrize(
    ("name", "text"), [("stat", "a b"), ("copy", "a"), ("chmod", "a rwx"), ("stat", "--nothing 1")]
)
def test_wrong_arguments_are_refused(name: str, text: str) -> None:
    """Too many, too few, of another type, or unknown."""
    with pytest.raises(UsageError):
        _command(name, text)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", "-5", -5), ("size", "10 MB", 10_000_000), ("seconds", "2 min", 120.0), ("boolean", "No", False),
        ("base64", "ab", b"ab"), ("array", "a,b", ["a", "b"]), ("array", '["a", 1]', ["a", 1]),
        ("struct", '{"a": 1}', {"a": 1}), ("path", "/a/b", "a/b"), ("string", "/a", "/a"),
    ],
)  # fmt: skip
def test_values(kind: Any, text: str, value: Any) -> None:
    """Texts of all kinds of arguments."""
    assert value_of(kind, text, "here") == value


@pytest.mark.parametrize(
    ("kind", "text"), [("int", "x"), ("boolean", "maybe"), ("struct", "[]"), ("base64", "@/nothing")]
)
def test_wrong_values(kind: Any, text: str) -> None:
    """They are refused with where they stand."""
    with pytest.raises(UsageError, match="here"):
        value_of(kind, text, "here")
