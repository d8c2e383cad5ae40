"""The shell itself: runs statements one after the other, keeps the target, the jobs and the exit codes."""

from __future__ import annotations

import difflib
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from dtscore import command
from dtscore.config import Config
from dtscore.errors import UsageError
from dtsd import dtsh_verbs
from dtsd.dtsh_jobs import Job, Jobs, run_command, tell
from dtsd.dtsh_language import Statement, Values, expand, parse
from dtsd.dtsh_sites import Sites
from dtsd.dtsh_verb import Command, ExitRequested, Verb, read_words


class Shell:
    """One dtsh: interactive, a script, or a single command."""

    def __init__(
        self, config: Callable[[], Config], *, target: str = "", json: bool = False, interactive: bool = False
    ) -> None:
        """`config` is read when a site is first needed."""
        self.sites = Sites(config, target)
        self.json = json
        self.interactive = interactive
        self.values = Values()
        self.stop_on_error = False
        self.failed = command.OK
        self.jobs = Jobs(self._job_ended)
        self.hangs = False
        self._has_lines = False

    def run_script(self, text: str, name: str, arguments: Sequence[str]) -> int:
        """Run a whole script, wait for its background jobs, and return its exit code: that of the first that failed.

        KeyboardInterrupt ends the running command, the background jobs and the script.
        """
        self.values = Values(name, tuple(arguments))
        self._has_lines = "\n" in text.strip()
        try:
            for statement in parse(text, name):
                self._run(statement)
                if self.stop_on_error and self.failed:
                    break
        except ExitRequested as asked:
            found = self._end()
            return found if asked.code is None else asked.code
        except UsageError as error:
            self.failed = self.failed or tell(error)
        except KeyboardInterrupt:
            command.complain("interrupted")
            self.jobs.interrupt()
            return command.INTERRUPTED
        return self._end()

    def _end(self) -> int:
        """Wait for the background jobs; return the exit code of the first command that failed."""
        try:
            self.jobs.wait()
        except KeyboardInterrupt:
            self.jobs.interrupt()
            return command.INTERRUPTED
        return self.failed

    def run_line(self, text: str) -> None:
        """Run what was typed; errors are told. Raises ExitRequested."""
        try:
            for statement in parse(text):
                self._run(statement)
        except UsageError as error:
            self._note(tell(error))
        except KeyboardInterrupt:
            self._note(command.INTERRUPTED)
            command.complain("interrupted")

    def run_words(self, words: Sequence[str]) -> int:
        """Run one command that was split into words already; return its exit code."""
        try:
            self._start(list(words), " ".join(words), background=False)
        except UsageError as error:
            self._note(tell(error))
        except ExitRequested as asked:
            return asked.code or command.OK
        except KeyboardInterrupt:
            command.complain("interrupted")
            return command.INTERRUPTED
        return self._end()

    def _run(self, statement: Statement) -> None:
        try:
            name = expand(statement.words[:1], self.values, patterns=False)[0]
            verb = self.verb(name)
            words = expand(statement.words[1:], self.values, patterns=verb.patterns)
            self._start([name, *words], statement.text, background=statement.background)
        except UsageError as error:
            where = f"line {statement.line}: " if self._has_lines else ""
            self._note(tell(UsageError(f"{where}{error.message}", error.hint)))
        self.jobs.reap()

    def _start(self, words: list[str], text: str, *, background: bool) -> None:
        verb = self.verb(words[0])
        found, options = read_words(verb, words[1:])
        running = Command(self, verb, found, options)
        if verb.direct:
            if background:
                raise UsageError(f"{verb.name} cannot run in the background", "leave out the &")
            self._note(run_command(running))
        elif background:
            job = self.jobs.start(running, text)
            if self.interactive:
                print(f"[{job.number}] {text}", flush=True)
        else:
            self._foreground(running, text)

    def _foreground(self, running: Command, text: str) -> None:
        job = Job(running, text)
        job.start()
        try:
            code = job.wait()
        except KeyboardInterrupt:
            self.hangs = self.hangs or job.is_left
            self._note(command.INTERRUPTED)
            if not self.interactive:
                raise
            command.complain("interrupted")
            return
        self._note(code)

    def verb(self, name: str) -> Verb:
        """Return a verb; raises UsageError, which suggests the nearest."""
        if name.startswith("!"):
            raise UsageError("dtsh starts no other programs", "use the system's shell beside it")
        found = dtsh_verbs.find(name)
        if found is None:
            near = difflib.get_close_matches(name, dtsh_verbs.names(), n=1)
            raise UsageError(f"there is no verb {name!r}", f"did you mean {near[0]!r}?" if near else "see: help")
        return found

    def _note(self, code: int) -> None:
        self.values = replace(self.values, status=code)
        self.failed = self.failed or code

    def _job_ended(self, job: Job) -> None:
        code = job.code if job.code is not None else command.FAILED
        self.failed = self.failed or code
        if self.interactive:
            print(f"[{job.number}] {job.state}: {job.text}", flush=True)

    def close(self) -> None:
        """Close the connections."""
        self.sites.close()


def let_ctrl_c_through() -> None:
    """Take SIGINT as an interruption, also where whoever started us ignores it; SIGTERM ends us as Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
