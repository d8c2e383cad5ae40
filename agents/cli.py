"""The program `dts-agent`: run agents as a daemon, once from cron, or list them."""

from __future__ import annotations

import click

from agents import runner
from dtscore import command
from reqdb import fleet

main = command.program("dts-agent", "Run the periodic agents of a site.")


@main.command(epilog="Example: dts-agent run transfer register")
@command.options
@click.argument("names", nargs=-1)
def run(session: command.Session, names: tuple[str, ...]) -> None:
    """Run agents, all of them if none is NAMED, until SIGTERM; then drain.

    They claim nothing more then, finish what runs, and hand back what is not finished within [agents] grace.
    """
    session.log_fully()
    runner.run(session.config, names)


@main.command(epilog="Example, every minute from cron: * * * * * dts-agent --config /srv/dts once transfer")
@command.options
@click.argument("names", nargs=-1)
def once(session: command.Session, names: tuple[str, ...]) -> None:
    """Do all work there is now and end: for cron. All agents if none is NAMED."""
    session.log_fully()
    summary = runner.once(session.config, names)
    if session.json:
        command.print_json(dict(summary))
    else:
        click.echo(", ".join(f"{number} {word}" for word, number in sorted(summary.items())) or "nothing to do")


@main.command("list", epilog="Example: dts-agent list --json")
@command.options
def list_(session: command.Session) -> None:
    """List the agents that work, with their heartbeats and what they hold."""
    with session.database.read() as connection:
        agents = fleet.agents(connection)
    if session.json:
        command.print_json([agent.as_dict() for agent in agents])
        return
    rows = [
        (one.kind, one.node, one.pid, one.condition, f"{one.heartbeat_age:.0f} s ago", one.files, one.message)
        for one in agents
    ]
    command.table(("agent", "node", "pid", "condition", "heartbeat", "files", "message"), rows)


if __name__ == "__main__":
    main()
