"""Receive one transfer of ours into a folder: `wan_receive.py HOST FOLDER`; ends with its standard input.

Prints the port that it listens on and the ticket for the transfer.
"""

from __future__ import annotations

import sys

from dtscore.errors import DtsError
from dtsnet.folder import FolderTarget
from dtsnet.frames import Stream
from dtsnet.meeting import Listener, Meeting
from dtsnet.receiver import Receiver
from dtsnet.sandbox import Sandbox


def main() -> None:
    """Listen until nobody wants it any more."""
    host, folder = sys.argv[1:]
    receiver = Receiver(FolderTarget(Sandbox(folder)))

    def serve(stream: Stream) -> None:
        try:
            receiver.serve(stream)
        except DtsError as error:
            print(f"a stream ended: {error}", file=sys.stderr)
        finally:
            stream.close()

    listener = Listener(host)
    ticket = listener.tickets.issue(Meeting(serve), 0)
    print(listener.port, ticket, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
