"""When a scheduler runs what: the lazy one keeps the promises of a device, and no other."""

import pytest

from cann.scheduler import NOW, Eager, Event, Lazy, Scheduler, Work

STREAM, OTHER, ANOTHER, EVENT, LATER = 11, 12, 13, 21, 22


class Log(list[str]):
    def work(self, name: str, code: int = 0) -> Work:
        def run() -> int:
            self.append(name)
            return code

        return run


def tell(scheduler: Scheduler, event: Event, *words: int) -> int:
    a, b, c, d = (*words, 0, 0, 0, 0)[:4]
    return scheduler.event(event, a, b, c, d)


def test_eager_runs_at_once_and_says_what_became_of_it() -> None:
    eager, log = Eager(), Log()
    assert eager.submit(STREAM, log.work("a")) == 0 and log == ["a"]
    assert eager.submit(STREAM, log.work("b", 7)) == 7
    assert tell(eager, Event.COPY) == tell(eager, Event.FILL) == NOW


@pytest.mark.parametrize("kind", [Eager, Lazy])
@pytest.mark.parametrize("wait", [(Event.FINISH, STREAM), (Event.FINISH_ALL,)])
def test_what_fails_late_is_said_once_by_whoever_waits(kind: type[Eager | Lazy], wait: tuple[Event, int]) -> None:
    scheduler = kind()
    assert scheduler.fail(STREAM, Log().work("a", 7)) == 0
    assert [tell(scheduler, *wait) for _ in range(2)] == [7, 0]


def test_lazy_runs_a_stream_in_order_when_somebody_waits() -> None:
    lazy, log = Lazy(), Log()
    for name in "abc":
        lazy.submit(STREAM, log.work(name))
    lazy.submit(OTHER, log.work("other"))
    assert log == [] and tell(lazy, Event.PENDING, STREAM)
    tell(lazy, Event.FINISH, STREAM)
    assert log == ["a", "b", "c"] and not tell(lazy, Event.PENDING, STREAM) and tell(lazy, Event.PENDING, OTHER)
    tell(lazy, Event.FINISH_ALL)
    assert log == ["a", "b", "c", "other"]


def test_lazy_runs_another_stream_as_far_as_an_event_says() -> None:
    lazy, log = Lazy(), Log()
    lazy.submit(OTHER, log.work("before"))
    tell(lazy, Event.RECORD, EVENT, OTHER)
    lazy.submit(OTHER, log.work("after"))
    tell(lazy, Event.WAIT, STREAM, EVENT)
    lazy.submit(STREAM, log.work("mine"))
    tell(lazy, Event.FINISH, STREAM)
    assert log == ["before", "mine"]


def test_lazy_waits_for_the_recording_that_there_was() -> None:
    """Recording an event again does not move those who wait for the earlier time."""
    lazy, log = Lazy(), Log()
    lazy.submit(OTHER, log.work("first"))
    tell(lazy, Event.RECORD, EVENT, OTHER)
    tell(lazy, Event.WAIT, STREAM, EVENT)
    lazy.submit(OTHER, log.work("second"))
    tell(lazy, Event.RECORD, EVENT, OTHER)
    tell(lazy, Event.FINISH, STREAM)
    assert log == ["first"] and not tell(lazy, Event.HAPPENED, EVENT)
    tell(lazy, Event.FINISH_EVENT, EVENT)
    assert log == ["first", "second"] and tell(lazy, Event.HAPPENED, EVENT)


def test_lazy_waits_on_the_stream_where_the_event_was() -> None:
    """torch gives an event that nobody holds any more to the next one, who records it on another stream."""
    lazy, log = Lazy(), Log()
    lazy.submit(OTHER, log.work("awaited"))
    tell(lazy, Event.RECORD, EVENT, OTHER)
    tell(lazy, Event.WAIT, STREAM, EVENT)
    lazy.submit(STREAM, log.work("mine"))
    tell(lazy, Event.RECORD, EVENT, ANOTHER)
    tell(lazy, Event.FINISH, ANOTHER)
    tell(lazy, Event.FINISH, STREAM)
    assert log == ["awaited", "mine"]


def test_an_event_that_was_never_recorded_has_happened() -> None:
    lazy = Lazy()
    assert tell(lazy, Event.HAPPENED, LATER) == 1
    assert tell(lazy, Event.WAIT, STREAM, LATER) == tell(lazy, Event.FINISH_EVENT, LATER) == 0


def test_a_copy_without_a_stream_happens_now() -> None:
    assert tell(Lazy(), Event.COPY, 1, 2, 3, 0) == NOW
