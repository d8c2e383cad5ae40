"""The program `dtsd`: run the site's daemon, and look after its users and its certificate."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from dtscore import command
from dtscore.command import Session
from dtscore.errors import ConfigurationError
from dtsnet.credentials import ROLES, Role

main = command.program(
    "dtsd", "The daemon of a site: files, transfers, queues and requests for callers elsewhere.\n\nSee docs/dtsd.md."
)


@main.command(epilog="Example: dtsd run")
@command.options
def run(session: Session) -> None:
    """Serve calls until SIGTERM, which lets calls and transfers come to a safe end; SIGHUP starts the daemon anew.

    Listens where [dtsd] says, or on the socket that systemd or inetd passes. No connection is lost by a new start.
    """
    from dtsd.server.daemon import Daemon, begin_anew, passed_socket

    session.log_fully()
    daemon = Daemon(session.config, passed_socket())
    daemon.obey_signals()
    if daemon.run():
        path = str(session.config.path)
        begin_anew(daemon, [sys.executable, "-m", "dtsd.server.cli", "--config", path, "run"])


@main.command(epilog="Example: dtsd check")
@command.options
def check(session: Session) -> None:
    """Say whether the daemon could be started: users, secrets, certificate, folder. Exit code 78 if not."""
    from dtsd.server.daemon import check_start
    from dtsd.server.guard import load_users

    settings = check_start(session.config.path).dtsd
    users, tls = load_users(settings.users_file), settings.certificate_file is not None
    if session.json:
        found = {"host": settings.host, "port": settings.port, "tls": tls, "root": settings.root, "users": len(users)}
        command.print_json(found)
        return
    how = "TLS" if tls else "no TLS, loopback only"
    command.note(f"dtsd can serve {settings.root} on {settings.host}:{settings.port} ({how}) for {len(users)} users")


@main.command(epilog="Example: dtsd certificate --name dts.example.org")
@command.options
@click.option("--name", "names", multiple=True, help="Host name or address of the daemon; may be repeated.")
@click.option("--days", type=click.IntRange(1, 7300), default=3650, show_default=True, help="How long it is good.")
def certificate(session: Session, names: tuple[str, ...], days: int) -> None:
    """Make a self-signed certificate and its key where [dtsd] certificate_file and key_file say.

    Callers trust it by naming a copy of the certificate as their ca_file. Existing files are left as they are.
    """
    from dtsd.server.tls import make_certificate

    settings, etc = session.config.dtsd, session.config.path.parent
    made = settings.certificate_file or etc / "dtsd.crt"
    key = settings.key_file or etc / "dtsd.key"
    make_certificate(made, key, names or _own_names(settings.host), days)
    if session.json:
        command.print_json({"certificate_file": made, "key_file": key})
        return
    command.note(f"made {made} and {key}")
    if settings.certificate_file is None:
        command.note(f"now write into [dtsd]:\ncertificate_file = {made}\nkey_file = {key}")


def _own_names(host: str) -> list[str]:
    names: Iterable[str] = (socket.getfqdn(), socket.gethostname(), "localhost", "127.0.0.1", host)
    return [name for name in dict.fromkeys(names) if name not in ("", "0.0.0.0", "::")]  # noqa: S104  # nothing listens on these here


@main.group()
def user() -> None:
    """Look after the users; a change counts at once, without a new start."""


@user.command("add", epilog="Example: dtsd user add fermilab transfer --to fermilab.secret")
@command.options
@click.argument("name")
@click.argument("role", type=click.Choice(ROLES))
@click.option("--certificate", "certified", is_flag=True, help="The user shows a client certificate with NAME as CN.")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Write the secret there, mode 0600.")
def user_add(session: Session, name: str, role: Role, certified: bool, target: Path | None) -> None:
    """Add the user NAME; ROLE is read, transfer, operate or admin, each of which may what those before it may.

    The new secret is printed, once, unless --to names a file for it.
    """
    from dtsd.server.users import add_user, write_secret

    if target is not None and target.exists():
        raise ConfigurationError(f"{target} exists", "name another file")
    secret = add_user(session.config.dtsd.users_file, name, role, certified=certified)
    if target is not None and secret:
        write_secret(target, secret)
    shown = secret if target is None else ""
    if session.json:
        command.print_json({"name": name, "role": role, "secret": shown})
    elif shown:
        click.echo(shown)
    command.note(f"added {name} as {role}")


@user.command("list", epilog="Example: dtsd user list")
@command.options
def user_list(session: Session) -> None:
    """List the users with their roles and how they prove who they are; secrets are not shown."""
    from dtsd.server.guard import load_users

    users = load_users(session.config.dtsd.users_file).values()
    rows = [(one.name, one.role, "secret" if one.secret else "certificate") for one in users]
    if session.json:
        command.print_json([{"name": name, "role": role, "proof": proof} for name, role, proof in rows])
    else:
        command.table(("NAME", "ROLE", "PROOF"), rows)


@user.command("remove", epilog="Example: dtsd user remove fermilab")
@command.options
@click.argument("name")
def user_remove(session: Session, name: str) -> None:
    """Take a user out: from the next call on it is refused. The last admin stays."""
    from dtsd.server.users import remove_user

    remove_user(session.config.dtsd.users_file, name)
    if session.json:
        command.print_json({"removed": name})
    command.note(f"removed {name}")


if __name__ == "__main__":
    main()
