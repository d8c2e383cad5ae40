"""The parser of frames against hostile streams; the long form is a drill of `make torture`."""

from __future__ import annotations

import socket
from pathlib import Path

import hypothesis

from imagebuilder.pan.client import PanClient
from tests.imagebuilder.frames import STREAMS, fuzz
from tests.imagebuilder.standing import StandingNode


def test_hostile_frames_are_refused_clearly() -> None:
    """4,000 broken, lying and honest frames: one clear refusal, or exactly what was sent; bounded memory."""
    tally = fuzz(4_000)
    assert tally.frames >= 4_000
    assert tally.taken > 500
    assert tally.refused > 200


def test_a_node_outlives_hostile_peers(tmp_path: Path, sqlite_url: str) -> None:
    """200 connections of frames and noise, none of which says hello: each is ended, and an honest PAN is served."""
    with StandingNode(tmp_path / "site", sqlite_url) as node:

        @hypothesis.settings(max_examples=200, deadline=None, database=None)
        @hypothesis.given(STREAMS)
        def visit(frames: list[bytes]) -> None:
            with socket.create_connection(("127.0.0.1", node.node.port), timeout=20) as peer:
                peer.sendall(b"".join(frames))
                peer.shutdown(socket.SHUT_WR)
                try:
                    while peer.recv(65536):
                        pass
                except ConnectionResetError:
                    pass  # it was ended before all of it was read

        visit()
        with PanClient([node.address], "duo", "pan1", node.secret, timeout=10) as pan:
            assert pan.label()[0].exposure == 1
