"""When a request to stop is obeyed."""

import os
import signal
import time

import pytest

from bench.sweep import notice as notice_
from bench.sweep.notice import SIGNALS, Notice, Stopped


def signal_that_stopped(work) -> int:
    """0: none did."""
    try:
        with Notice() as notice:
            work(notice)
    except Stopped as stop:
        return stop.number
    return 0


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_notice_stops_at_once(number, handlers):
    reached = []

    def work(notice):
        send(number)
        reached.append("too far")

    assert signal_that_stopped(work) == number
    assert not reached


def test_a_held_notice_waits_for_its_moment(handlers):
    reached = []

    def work(notice):
        with notice.held():
            notice.obey()
            send(signal.SIGTERM)
            send(signal.SIGINT)  # does not change what came first
            reached.append("here")
            notice.obey()
            reached.append("too far")

    assert signal_that_stopped(work) == signal.SIGTERM
    assert reached == ["here"]


def test_a_held_notice_is_obeyed_at_the_end_of_the_block(handlers):
    reached = []

    def work(notice):
        with notice.held():
            send(signal.SIGUSR1)
            reached.append("here")
        reached.append("too far")

    assert signal_that_stopped(work) == signal.SIGUSR1
    assert reached == ["here"]


def test_a_held_notice_does_not_wait_for_ever(handlers, monkeypatch):
    monkeypatch.setattr(notice_, "GRACE_S", 0.1)

    def work(notice):
        with notice.held():
            send(signal.SIGTERM)
            time.sleep(5)

    start = time.monotonic()
    assert signal_that_stopped(work) == signal.SIGTERM
    assert 0.1 <= time.monotonic() - start < 4


def test_who_is_stopping_is_deaf_to_more(handlers):
    def work(notice):
        try:
            send(signal.SIGINT)
        finally:
            send(signal.SIGTERM)
            send(signal.SIGINT)

    assert signal_that_stopped(work) == signal.SIGINT
    send(signal.SIGTERM)


def test_without_a_notice_all_is_as_before(handlers):
    before = signal.getsignal(signal.SIGTERM)
    with Notice() as notice, notice.held():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
