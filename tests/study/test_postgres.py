"""The store on a real PostgreSQL server: as on SQLite, through kills, from several servers at once."""

import tempfile
from pathlib import Path

import pytest

from benchmarks.study.serving import Served, postgres
from e2ed2.study.export import read_any_votes
from e2ed2.study.folder import read_study
from e2ed2.study.store import Decision, Store, default_url
from e2ed2.study.writer import Conflict
from e2ed2.system.errors import UserError
from tests.study.test_serve import put
from tests.study.test_store import keep_together

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server():
    try:
        with postgres(Path(tempfile.gettempdir())) as url:
            yield url
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def url(server, request):
    """A database of the test's own."""
    import psycopg

    name = f"test_{abs(hash(request.node.name))}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.removesuffix("postgres") + name


def test_all_that_a_store_does_is_as_on_sqlite(url, tmp_path):
    found = []
    for address in (url, f"sqlite:///{tmp_path / 'votes.db'}"):
        store = Store(address, "study", ["ann", "bob"])
        store.decide("ann", Decision("decision-1", 0, "left", 1.5, 100.0)).result()
        store.decide("ann", Decision("decision-1", 0, "left", 9.9, 900.0)).result()  # sent twice
        store.decide("ann", Decision("decision-2", 1, "none", 200.0, 101.0)).result()
        store.decide("ann", Decision("decision-3", 0, "right", 3.0, 102.0)).result()
        with pytest.raises(Conflict):
            store.decide("ann", Decision("decision-3", 0, "left", 3.0, 102.0)).result()
        store.decide("bob", Decision("decision-1", 0, "none", 2.0, 103.0)).result()
        store.raise_hand("bob", "hand-1", 1, "é 中 🎉")
        store.reply(1, "yes")
        store.read_replies("bob")
        store.revoke("bob")
        store.issue_link("ann")
        store.pause(True)
        store.begin_session("token", 60)
        hands = [(h.number, h.rater, h.text, h.reply, h.is_read) for h in store.hands("bob")]
        found.append(
            [list(store.decisions()), store.choice("ann", 0), store.choice("ann", 7), store.standing("ann"),
             store.standing("bob"), store.progress(), hands, store.is_session("token"), store.is_session("other")]
        )  # fmt: skip
        store.end_session("token")
        assert not store.is_session("token")
        store.close()
        again = Store(address, "study", ["ann", "bob"])
        assert again.num_decisions() == 4
        again.close()
        with pytest.raises(UserError, match="another study"):
            Store(address, "other", ["ann"])
    assert found[0] == found[1]
    assert found[0][5][0].seconds == pytest.approx((1.5 + 120 + 3) / 3)  # what is over two minutes counts two


def test_many_writers_of_one_id_leave_one_decision(url):
    stores = [Store(url, "study", ["ann"]) for _ in range(2)]
    same = Decision("the-same", 0, "left", 1.0, 0.0)
    for end in [stores[i % 2].decide("ann", same) for i in range(40)]:
        end.result()
    assert stores[0].num_decisions() == 1
    for store in stores:
        store.close()


def test_rows_that_wait_together_are_kept_in_their_order_and_each_is_told(url):
    Store(url, "study", ["ann"]).close()
    screens, kept = keep_together(url.replace("postgresql:", "postgresql+psycopg:"))
    assert screens == [0, 1, *range(3, 60)]
    assert kept == [True, True, True, False, *[True] * 57]


def test_a_server_of_pages_killed_in_the_middle(url, folder):
    study = read_study(folder[0])
    served = Served(folder[0], database_url=url)
    for screen in range(10):
        assert put(served.address, served.links[0], screen) == 200
    served.kill()
    served = Served(folder[0], served.port, url)
    for screen in (9, 10):
        assert put(served.address, served.links[0], screen) == 200
    served.kill()
    votes = read_any_votes(folder[0], url)
    assert len(votes) == 11 and {vote.rater for vote in votes} == {"rater-1"}
    assert not (folder[0] / "votes.db").exists() and default_url(folder[0]) != url and study.id
