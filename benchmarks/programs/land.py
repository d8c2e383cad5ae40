"""Receive one transfer of ours into a folder, on loopback: `land.py FOLDER`; ends with its standard input.

Prints the port and the ticket, and at the end the CPU seconds that receiving took.
"""

from __future__ import annotations

import sys
import time

from dtsnet.folder import FolderTarget
from dtsnet.frames import Stream
from dtsnet.meeting import Listener, Meeting
from dtsnet.receiver import Receiver
from dtsnet.sandbox import Sandbox


def main() -> None:
    """Listen until nobody wants it any more."""
    receiver = Receiver(FolderTarget(Sandbox(sys.argv[1])))

    def serve(stream: Stream) -> None:
        try:
            receiver.serve(stream)
        finally:
            stream.close()

    listener = Listener("127.0.0.1")
    ticket = listener.tickets.issue(Meeting(serve), 0)
    print(listener.port, ticket, flush=True)
    begun = time.process_time()
    sys.stdin.read()
    print(time.process_time() - begun, flush=True)


if __name__ == "__main__":
    main()
