import threading

import pytest

from qwen35cli.app.background import Background


def test_it_runs_to_its_end():
    done = []
    work = Background()
    work.start(done.append(i) for i in range(5))
    work.finish()
    assert done == list(range(5))


def test_it_stops_between_two_steps():
    steps, first, go_on = [], threading.Event(), threading.Event()

    def work():
        try:
            for i in range(100):
                steps.append(i)
                first.set()
                go_on.wait(10)
                yield
        finally:
            steps.append("closed")

    background = Background()
    background.start(work())
    first.wait(10)
    background.ask_to_stop()
    go_on.set()
    background.stop()
    assert steps[-1] == "closed"
    assert len(steps) < 100


def test_what_failed_is_raised_where_it_is_waited_for_and_once():
    def work():
        yield
        raise RuntimeError("no room")

    background = Background()
    background.start(work())
    with pytest.raises(RuntimeError, match="no room"):
        background.finish()
    background.finish()


def test_new_work_waits_for_the_old():
    order = []

    def work(name):
        for _ in range(3):
            order.append(name)
            yield

    background = Background()
    background.start(work("a"))
    background.start(work("b"))
    background.finish()
    assert order == sorted(order)
    assert order[-3:] == ["b"] * 3
