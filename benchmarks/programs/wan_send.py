"""Send one file by our own transport, over so many streams: `wan_send.py HOST PORT TICKET STREAMS FILE`.

0 streams: as many as the transport finds to suit the path.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.children import serve
from dtsnet.meeting import connect
from dtsnet.outgoing import Outgoing
from dtsnet.sender import Sender, SendOptions
from dtsnet.tickets import Ticket


def main() -> None:
    """Wait for the word, connect, send, and part when the file has landed."""
    host, port, ticket, streams, name = sys.argv[1:]
    path = Path(name)
    files = [Outgoing(path.name, partial(os.open, path, os.O_RDONLY))]
    join = partial(connect, host, int(port), Ticket.parse(ticket))

    def work() -> dict[str, Any]:
        sender = Sender(join, files, SendOptions(streams=int(streams)))
        (sent,) = sender.run()
        if sent.error_class:
            raise RuntimeError(f"{sent.error_class}: {sent.message}")
        return {"streams": sender.streams, "decisions": [str(decision) for decision in sender.decisions]}

    serve(work)


if __name__ == "__main__":
    main()
