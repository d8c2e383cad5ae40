"""The documentation: an undocumented setting or command is a failing test."""

from __future__ import annotations

import configparser
import importlib.machinery
import importlib.util
from pathlib import Path
from types import ModuleType

import click
import pytest

from agents.runner import AGENTS
from dtscore.config import load
from dtscore.configloader import variable_name
from dtscore.settings import AGENT_NAMES, SETTINGS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def _make_docs() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("make_docs", str(ROOT / "script" / "make-docs"))
    spec = importlib.util.spec_from_loader("make_docs", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


make_docs = _make_docs()
COMMANDS = dict(make_docs.commands())


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting.section}.{setting.key}")
def test_every_setting_is_documented(setting: object) -> None:
    """Section, key, meaning and variable stand in docs/configuration.md."""
    text = (DOCS / "configuration.md").read_text()
    section, key, doc = (getattr(setting, name) for name in ("section", "key", "doc"))
    part = text.partition(f"## [{section}]\n")[2].partition("\n## [")[0]
    assert f"| `{key}` |" in part
    assert doc in part
    assert variable_name(section, key) in part


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    """Each verb and each of its options stands in docs/commands.md."""
    text = (DOCS / "commands.md").read_text()
    part = text.partition(f"# {name}\n")[2].partition("\n#")[0]
    assert part, f"{name} is missing; run: script/make-docs"
    for parameter in COMMANDS[name].command.params:
        for option in parameter.opts if isinstance(parameter, click.Option) else ():
            assert option in part


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    """Each verb has a sentence, an example, --config and --json."""
    context = COMMANDS[name]
    command = context.command
    assert command.help
    if isinstance(command, click.Group):
        return
    help_text = command.get_help(context)
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--config", "--json"} <= options
    assert "Example" in help_text
    example = help_text.partition("Example")[2]
    words = name.split()
    assert words[0] in example
    assert words[-1] in example


def test_generated_pages_are_up_to_date() -> None:
    """script/make-docs has nothing to write."""
    for name, text in {
        "docs/configuration.md": make_docs.configuration(),
        "docs/commands.md": make_docs.command_pages(),
        "etc/dts.ini": make_docs.example(),
    }.items():
        assert (ROOT / name).read_text() == text, f"{name} is out of date; run: script/make-docs"


def test_the_example_configuration_is_right(tmp_path: Path) -> None:
    """etc/dts.ini loads as it is, and with every comment sign before a key taken away."""
    text = (ROOT / "etc" / "dts.ini").read_text()
    assert load(ROOT / "etc" / "dts.ini").elements == {}
    fixed = text.partition("# [agent.NAME]")[0]
    loose = "\n".join(line.removeprefix("# ") if " = " in line else line for line in fixed.splitlines())
    (tmp_path / "dts.ini").write_text(loose)
    assert load(tmp_path / "dts.ini").agents == load(ROOT / "etc" / "dts.ini").agents
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(loose)
    assert parser.get("agents", "workers") == "8"


def test_the_settings_know_the_agents_there_are() -> None:
    """An agent without a permitted section, or a section without an agent, is a mistake."""
    assert set(AGENT_NAMES) == set(AGENTS)


def test_each_agent_has_a_service() -> None:
    """etc/runit holds a service folder for each agent, whose run script may be executed."""
    for name in AGENTS:
        run = ROOT / "etc" / "runit" / f"dts-{name}-agent" / "run"
        assert run.stat().st_mode & 0o111
        assert f'dts-agent" run {name}' in run.read_text()
