"""Loopback ports of the embedded platform: those of the last start while they are free, so that links stay valid."""

import json
import socket

from pipelines.settings import Settings


def choose_ports(settings: Settings, wanted: tuple[int, int]) -> list[int]:
    """Return four ports: wanted ones (not 0), else those of the last start while they are free, else free ones.

    Raises ValueError naming a wanted port that is in use.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    path = settings.state_dir / "ports.json"
    before = json.loads(path.read_text()) if path.is_file() else [0, 0, 0, 0]
    usual = tuple(own or last for own, last in zip((*wanted, 0, 0), before, strict=True))
    try:
        ports = free_ports(4, wanted=usual)
    except ValueError:
        ports = free_ports(4, wanted=wanted)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(ports))
    partial.replace(path)
    return ports


def free_ports(count: int, wanted: tuple[int, ...] = ()) -> list[int]:
    """Return `count` distinct free loopback ports; a wanted port (not 0) is used or refused, never replaced.

    Raises ValueError naming a wanted port that is in use.
    """
    sockets: list[socket.socket] = []
    try:
        for port in (*wanted, *[0] * (count - len(wanted))):
            candidate = socket.socket()
            sockets.append(candidate)
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError as error:
                raise ValueError(
                    f"Port {port} on 127.0.0.1 is in use ({error.strerror}). Stop the program that uses it, or give"
                    " another port (0 picks a free one)."
                ) from error
        return [candidate.getsockname()[1] for candidate in sockets]
    finally:
        for candidate in sockets:
            candidate.close()
