"""The store, and the thread that keeps rows for it."""

from concurrent.futures import wait

import pytest
from sqlalchemy import create_engine, func, inspect, select
from sqlalchemy.exc import OperationalError

from e2ed2.study.store import Decision, Store
from e2ed2.study.tables import ABOUT, DECISIONS, TABLES
from e2ed2.study.writer import Conflict, Writer
from e2ed2.system.errors import UserError


def decision(number: int, choice: str = "left") -> Decision:
    return Decision(f"decision-{number:04d}", number, choice, 1.0, 0.0)


def test_rows_that_come_together_are_all_kept_and_each_hears_its_own_end(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'votes.db'}", "study", ["ann", "bob"])
    ends = [store.decide(rater, decision(i)) for i in range(100) for rater in ("ann", "bob")]
    again = [store.decide("ann", decision(i)) for i in range(50)]
    taken = store.decide("ann", decision(7, "right"))
    wait([*ends, *again, taken], timeout=30)
    assert all(end.exception() is None for end in [*ends, *again]) and isinstance(taken.exception(), Conflict)
    assert store.num_decisions() == 200 and store.choice("ann", 7) == "left"
    store.close()


def test_who_stops_waiting_stops_nothing(tmp_path):
    """A browser that goes away in the middle: its vote is kept, and so are the next ones."""
    store = Store(f"sqlite:///{tmp_path / 'votes.db'}", "study", ["ann"])
    assert not any(store.decide("ann", decision(i)).cancel() for i in range(20))
    store.decide("ann", decision(20)).result(timeout=10)
    assert store.num_decisions() == 21
    store.close()


def test_what_waits_is_kept_before_the_end(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'votes.db'}", "study", ["ann"])
    for i in range(30):
        store.decide("ann", decision(i))
    store.close()
    again = Store(f"sqlite:///{tmp_path / 'votes.db'}", "study", ["ann"])
    assert again.num_decisions() == 30
    again.close()


def test_a_database_that_fails_is_heard_by_all_who_wait_and_the_next_rows_are_kept(tmp_path):
    """No table at first: nobody is told that a row was kept. With the table there, the same thread goes on."""
    engine = create_engine(f"sqlite:///{tmp_path / 'votes.db'}")
    writer = Writer(engine)
    values = {"rater": "ann", "screen": 0, "choice": "left", "seconds": 1.0, "decided_at": 0.0}
    lost = [writer.keep(DECISIONS, {**values, "id": f"row-{i}"}, ("screen",)) for i in range(5)]
    for end in lost:
        with pytest.raises(OperationalError):
            end.result(timeout=10)
    TABLES.create_all(engine)
    writer.keep(DECISIONS, {**values, "id": "row-0"}, ("screen",)).result(timeout=10)
    writer.close()
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(DECISIONS)).scalar_one() == 1
    engine.dispose()


def keep_together(url):
    """Rows that wait for the writer together: (screens by number, whether each was told to be kept)."""
    engine = create_engine(url)
    writer = Writer(engine)
    writer.close()  # its thread has ended: what is sent now waits
    values = {"rater": "ann", "choice": "left", "seconds": 1.0, "decided_at": 0.0}
    sent = [("first", 0), ("second", 1), ("first", 0), ("first", 2), *((f"row-{i}", i) for i in range(3, 60))]
    ends = [writer.keep(DECISIONS, {**values, "id": id, "screen": screen}, ("screen",)) for id, screen in sent]
    writer._waiting.put(None)
    writer._work()
    with engine.connect() as connection:
        screens = connection.execute(select(DECISIONS.c.screen).order_by(DECISIONS.c.number)).scalars().all()
    engine.dispose()
    return list(screens), [end.exception(timeout=10) is None for end in ends]


def test_rows_that_wait_together_are_kept_in_their_order_and_each_is_told(tmp_path):
    """`first` came three times: as it was, once more the same, and as another decision."""
    url = f"sqlite:///{tmp_path / 'votes.db'}"
    Store(url, "study", ["ann"]).close()
    screens, kept = keep_together(url)
    assert screens == [0, 1, *range(3, 60)]
    assert kept == [True, True, True, False, *[True] * 57]


@pytest.mark.parametrize("made", [[ABOUT], [ABOUT, DECISIONS], list(TABLES.tables.values())])
def test_a_start_killed_before_its_first_row_is_gone_on_with(made, tmp_path):
    url = f"sqlite:///{tmp_path / 'votes.db'}"
    engine = create_engine(url)
    TABLES.create_all(engine, tables=made)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX IF EXISTS decision_of_screen")
    engine.dispose()
    for _ in range(2):
        store = Store(url, "study", ["ann"])
        assert store.progress()[0].rater == "ann" and not store.is_paused()
        store.close()
    assert [index["name"] for index in inspect(engine).get_indexes("decision")] == ["decision_of_screen"]
    with pytest.raises(UserError, match="another study"):
        Store(url, "other", ["ann"])
    engine.dispose()


def test_a_mean_counts_two_minutes_at_the_most(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'votes.db'}", "study", ["ann", "bob"])
    for i, seconds in enumerate((2.0, 4.0, 5000.0)):
        store.decide("ann", Decision(f"decision-{i}", i, "left", seconds, 10.0 + i)).result()
    ann, bob = store.progress()
    assert (ann.num_decided, ann.seconds, ann.last_at) == (3, 42.0, 12.0)
    assert (bob.num_decided, bob.seconds, bob.last_at) == (0, None, None)
    store.close()
