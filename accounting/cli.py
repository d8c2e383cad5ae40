"""`dts-accounting`: reports, plots, the rows themselves, and the documented queries."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from sqlalchemy.engine import Connection

from accounting import queries, render, store
from accounting.models import attempts
from accounting.period import Period, parse_period
from accounting.report import GROUPINGS, By, report
from dtscore import command
from dtscore.database import now
from dtscore.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

main = command.program("dts-accounting", "Report on what was moved: one row for each attempt at each file.")

_KIND_NAMES = ("all", "throughput", "success", "volume")


def _period(default: str) -> Callable[[F], F]:
    """Add --since and --until to a command."""

    def add(function: F) -> F:
        until = click.option("--until", default="now", show_default=True, metavar="TIME", help="End, not included.")
        since = click.option(
            "--since",
            default=default,
            show_default=True,
            metavar="TIME",
            help="Beginning: 2026-11-20, 2026-11-20T04:00 (UTC), 12h, 7d, or all.",
        )
        return since(until(function))

    return add


def _read_period(connection: Connection, since: str, until: str) -> Period:
    return parse_period(since, until, now(connection))


def _one_format(session: command.Session, as_csv: bool) -> None:
    if session.json and as_csv:
        raise UsageError("--json and --csv were both given", "give one of them")


@main.command("report", epilog="Example: dts-accounting report --since 2026-11-18 --by day")
@click.option("--by", type=click.Choice(GROUPINGS), default="channel", show_default=True, help="What each line is.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, numbers in bytes and seconds.")
@_period("7d")
@command.options
def report_command(session: command.Session, by: str, as_csv: bool, since: str, until: str) -> None:
    """Add up files, attempts, bytes and seconds of a period."""
    _one_format(session, as_csv)
    with session.database.read() as connection:
        made = report(connection, _read_period(connection, since, until), cast(By, by))
    if session.json:
        command.print_json(render.as_json(made))
    elif as_csv:
        render.write_csv(sys.stdout, render.columns(made), (render.values(row) for row in made.rows))
    elif not made.rows:
        command.note(f"no attempts in this period ({made.period})")
    else:
        command.note(str(made.period))
        render.print_report(made)


@main.command(epilog="Example: dts-accounting plot -o last-week.png --since 7d")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Picture: .png, .svg or .pdf.")
@click.option("--kind", type=click.Choice(_KIND_NAMES), default="all", show_default=True, help="One panel, or all.")
@_period("7d")
@command.options
def plot(session: command.Session, output: Path, kind: str, since: str, until: str) -> None:
    """Draw throughput, success rate and volume by channel."""
    # matplotlib takes half a second to load: the other commands do without.
    from accounting import plot as plots
    from accounting.activity import gather

    plots.check_ending(output)
    with session.database.read() as connection:
        activity = gather(connection, _read_period(connection, since, until))
    plots.save(plots.draw(activity, cast(plots.Kind, kind)), output)
    if session.json:
        shown = activity.period
        command.print_json({"output": output, "kind": kind, "since": shown.since, "until": shown.until})
    else:
        command.note(f"wrote {output}: {activity.period}")


@main.command(epilog="Example: dts-accounting export --since 2026-11-01 --csv > november.csv")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV. This is the default; --json prints one object a line.")
@_period("all")
@command.options
def export(session: command.Session, as_csv: bool, since: str, until: str) -> None:
    """Print all attempts of a period, oldest first."""
    _one_format(session, as_csv)
    with session.database.read() as connection:
        period = _read_period(connection, since, until)
        rows = store.export(connection, period.since, period.until)
        if session.json:
            render.write_json_lines(rows)
        else:
            render.write_csv(sys.stdout, attempts.columns.keys(), (tuple(row.values()) for row in rows))


@main.command(epilog="Example: dts-accounting sql failures-by-error --run --since 1d")
@click.argument("name", required=False)
@click.option("--run", is_flag=True, help="Run the query and print its rows.")
@click.option("--csv", "as_csv", is_flag=True, help="With --run: print CSV.")
@_period("7d")
@command.options
def sql(session: command.Session, name: str | None, run: bool, as_csv: bool, since: str, until: str) -> None:
    """List the documented queries, print the text of one, or run it."""
    _one_format(session, as_csv)
    if name is None:
        if run or as_csv:
            raise UsageError("--run and --csv need the name of a query", "list the names with: dts-accounting sql")
        _list_queries(session)
        return
    query = queries.find(name)
    if not run:
        _print_query(session, query)
        return
    with session.database.read() as connection:
        _print_result(session, queries.run(connection, query, _read_period(connection, since, until)), as_csv)


def _list_queries(session: command.Session) -> None:
    if session.json:
        command.print_json(list(queries.QUERIES.values()))
    else:
        command.table(("name", "answers"), [(query.name, query.answers) for query in queries.QUERIES.values()])


def _print_query(session: command.Session, query: queries.Query) -> None:
    if session.json:
        command.print_json(query)
    else:
        click.echo(f"-- {query.title}: {query.answers}\n{query.sql};")


def _print_result(session: command.Session, result: queries.Result, as_csv: bool) -> None:
    if session.json:
        command.print_json([dict(zip(result.columns, row, strict=True)) for row in result.rows])
    elif as_csv:
        render.write_csv(sys.stdout, result.columns, result.rows)
    else:
        command.table(result.columns, result.rows)


if __name__ == "__main__":
    main()
