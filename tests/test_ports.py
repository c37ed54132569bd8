"""Ports for jobs that begin at the same time."""

from __future__ import annotations

from silc import ports


def test_a_port_that_was_given_is_not_given_again(monkeypatch):
    """Nobody may listen on it yet, so that the system would give it again."""
    monkeypatch.setattr(ports, "_given", set())
    found = iter([4000, 4000, 4000, 4001])
    monkeypatch.setattr(ports, "_probe", lambda: next(found))
    assert [ports.free_port(), ports.free_port()] == [4000, 4001]


def test_when_all_were_given_one_is_given_again(monkeypatch):
    monkeypatch.setattr(ports, "_given", set())
    monkeypatch.setattr(ports, "_probe", lambda: 4000)
    assert [ports.free_port(), ports.free_port()] == [4000, 4000]
