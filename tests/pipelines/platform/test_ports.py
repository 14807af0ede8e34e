"""Ports are free, distinct, refused by name when taken, and the same at the next start."""

import socket

import pytest

from pipelines.platform.ports import choose_ports, free_ports
from pipelines.settings import Settings


def test_free_ports_are_distinct_and_bindable() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_the_next_start_takes_the_same_ports(settings: Settings) -> None:
    first = choose_ports(settings, (0, 0))
    assert choose_ports(settings, (0, 0)) == first
    (wanted,) = free_ports(1)
    assert choose_ports(settings, (wanted, 0)) == [wanted, *first[1:]]
    assert choose_ports(settings, (0, 0))[0] == wanted, "what was asked for once is kept"


def test_a_port_that_another_program_took_meanwhile_is_replaced(settings: Settings) -> None:
    first = choose_ports(settings, (0, 0))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first[1]))
        taken.listen()
        assert first[1] not in choose_ports(settings, (0, 0))
        with pytest.raises(ValueError, match=f"Port {first[1]} on 127.0.0.1 is in use"):
            choose_ports(settings, (0, first[1]))
