"""The verbs of dtsh that need no site: for the shell itself, and for scripts."""

from __future__ import annotations

from dtscore.errors import NotFoundError, UsageError
from dtsd.dtsh_verb import Command, ExitRequested, Option, Verb, value_of


def echo(running: Command) -> None:
    """Print the words."""
    running.say(" ".join(running.words))


def sleep(running: Command) -> None:
    """Wait; the end of the command is noticed at once."""
    running.stop.wait(value_of("seconds", running.word(0), "sleep"))
    running.guard()


def target(running: Command) -> None:
    """Choose the site, or tell which one is chosen."""
    sites = running.shell.sites
    if running.words:
        sites.target = sites.name(running.word(0))
    else:
        running.say(sites.name())


def targets(running: Command) -> None:
    """List the sites."""
    for name in running.shell.sites.names():
        running.say(name)


def help_(running: Command) -> None:
    """Explain a verb, or list all."""
    from dtsd import dtsh_verbs

    if running.words:
        running.say(running.shell.verb(running.word(0)).help())
        return
    for title, verbs in dtsh_verbs.sections():
        running.say(f"{title}:")
        for verb in verbs:
            running.say(f"  {verb.name:<24} {verb.summary}")
    running.say("`help VERB` explains one. Quotes as in a shell; `&` at the end: in the background; `#`: a comment.")


def jobs(running: Command) -> None:
    """List the background jobs."""
    for job in running.shell.jobs:
        running.say(f"[{job.number}] {job.state}: {job.text}")


def wait(running: Command) -> int:
    """Wait for one background job, or all."""
    if not running.words:
        return running.shell.jobs.wait()
    number = _number(running)
    if running.shell.jobs.get(number) is None:
        raise NotFoundError(f"there is no job {number}", "see: jobs")
    return running.shell.jobs.wait(number)


def kill(running: Command) -> None:
    """End a background job."""
    job = running.shell.jobs.get(_number(running))
    if job is None:
        raise NotFoundError(f"there is no job {running.word(0)}", "see: jobs")
    job.interrupt()


def _number(running: Command) -> int:
    number = value_of("int", running.word(0).removeprefix("%"), running.verb.name)
    assert isinstance(number, int)
    return number


def set_(running: Command) -> None:
    """Switch whether a script ends at the first command that fails."""
    stop = bool(running.options.get("stop"))
    if stop == (running.word(0) == "+e"):
        raise UsageError("set takes -e or +e", "-e ends a script at the first command that fails, +e does not")
    running.shell.stop_on_error = stop


def exit_(running: Command) -> None:
    """End the shell."""
    code = value_of("int", running.word(0), "exit") if running.words else None
    if code is not None and not 0 <= code <= 255:
        raise UsageError(f"exit: {code} is no exit code", "0 to 255")
    raise ExitRequested(code)




VERBS = (
    Verb("echo", "[WORD]...", "Print words.", echo, remote=False, literal=True),
    Verb("sleep", "SECONDS", "Wait, as long as: 5, 250 ms, 2 min.", sleep, least=1, most=1, remote=False),
    Verb("target", "[SITE]", "Choose the site that commands go to, or say which one it is.", target, most=1,
         direct=True, remote=False, completes=("target",)),
    Verb("targets", "", "List the sites that the configuration names.", targets, most=0, remote=False),
    Verb("help", "[VERB]", "Explain a verb, or list all.", help_, most=1, direct=True, remote=False,
         completes=("verb",)),
    Verb("jobs", "", "List the background jobs.", jobs, most=0, direct=True, remote=False),
    Verb("wait", "[JOB]", "Wait for a background job, or all; the exit code is that of the first that failed.", wait,
         most=1, direct=True, remote=False),
    Verb("kill", "JOB", "End a background job.", kill, least=1, most=1, direct=True, remote=False),
    Verb("set", "[+e]", "-e: a script ends at the first command that fails; +e: it goes on.", set_,
         (Option("stop", "flag", "End at the first command that fails.", "e"),), most=1, direct=True, remote=False),
    Verb("exit", "[CODE]", "End the shell when its background jobs have ended.", exit_, most=1, direct=True,
         remote=False),
    Verb("quit", "[CODE]", "As exit.", exit_, most=1, direct=True, remote=False),
)  # fmt: skip
