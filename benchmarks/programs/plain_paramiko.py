"""paramiko's own put or get of one file, with its defaults, connecting included."""

from __future__ import annotations

import sys
from typing import Any

import paramiko

from benchmarks.children import serve


def main(verb: str, port: str, user: str, key: str, known_hosts: str, source: str, target: str) -> None:
    """Put `source` on the server as `target`, or get it from there."""

    def work() -> dict[str, Any]:
        with paramiko.SSHClient() as client:
            client.load_host_keys(known_hosts)
            client.connect("127.0.0.1", int(port), user, key_filename=key, allow_agent=False, look_for_keys=False)
            with client.open_sftp() as sftp:
                (sftp.put if verb == "put" else sftp.get)(source, target)
        return {}

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
