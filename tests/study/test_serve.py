"""The server as a process: ports, databases that are not ours, kills."""

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from benchmarks.study.serving import Served
from e2ed2.study.app.serve import serve
from e2ed2.study.export import read_any_votes
from e2ed2.study.folder import read_study
from e2ed2.study.store import Decision, Store, default_url
from e2ed2.system.errors import UserError


def open_store(folder) -> Store:
    study = read_study(folder)
    return Store(default_url(folder), study.id, list(study.raters))


def put(address: str, link: str, screen: int) -> int:
    """A vote; its status, 0 where nobody answered."""
    body = json.dumps({"screen": screen, "choice": "left", "seconds": 1.0}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{address}{link}/votes/vote-{screen:05d}", body, headers, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_a_port_in_use(folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot be opened on 127.0.0.1 .*; give another"):
            serve(folder[0], host="127.0.0.1", port=port, database_url=None, say=print)
    with pytest.raises(UserError, match="--port 70000"):
        serve(folder[0], host="127.0.0.1", port=70000, database_url=None, say=print)


def test_a_database_of_another_version_is_left_as_it_is(folder):
    open_store(folder[0]).close()
    path = folder[0] / "votes.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE about SET schema_version = 7")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match="of version 7, this e2ed2 reads version 1; nothing was changed"):
        open_store(folder[0])
    assert path.read_bytes() == before


def test_a_database_of_another_study_or_of_something_else(folder, tmp_path):
    open_store(folder[0]).close()
    study = read_study(folder[0])
    with pytest.raises(UserError, match="votes of another study"):
        Store(default_url(folder[0]), "another", list(study.raters))
    with sqlite3.connect(tmp_path / "else.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(UserError, match="tables of something else"):
        Store(f"sqlite:///{tmp_path / 'else.db'}", study.id, list(study.raters))
    (tmp_path / "text.db").write_text("no database at all, but long enough to be looked at" * 100)
    with pytest.raises(UserError, match="file is not a database"):
        Store(f"sqlite:///{tmp_path / 'text.db'}", study.id, list(study.raters))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://x/y", "must begin with postgresql:// or sqlite:///"),
        ("nonsense", "give postgresql://USER"),
        ("sqlite:////nowhere/at/all.db", "cannot be used"),
        ("postgresql://me:hidden@127.0.0.1:9/x", "cannot be used"),
    ],
)
def test_urls_that_lead_nowhere(url, said, folder):
    with pytest.raises(UserError, match=said) as refused:
        Store(url, "id", ["rater-1"])
    assert "hidden" not in str(refused.value) and "\n" not in str(refused.value)


def test_a_folder_that_is_no_study(tmp_path):
    command = [sys.executable, "-m", "e2ed2.cli", "study", "serve", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: study ") and done.stderr.count("\n") == 1
    assert "study create" in done.stderr


def test_it_stops_at_ctrl_c_and_says_what_is_kept(folder):
    served = Served(folder[0])
    assert put(served.address, served.links[0], 0) == 200
    assert served.stop() == 130
    assert len(read_any_votes(folder[0])) == 1


@pytest.mark.slow
def test_no_vote_is_lost_or_doubled_through_kills(folder):
    """Three raters send at the same time; the server is killed five times, and each sends again until it is heard."""
    served = Served(folder[0])
    address, total = served.address, len(read_study(folder[0]).raters["rater-1"].screens)
    done = threading.Event()

    def rate(link: str) -> None:
        for screen in range(total):
            while (status := put(address, link, screen)) != 200:
                assert status == 0, status
                done.wait(0.02)

    raters = [threading.Thread(target=rate, args=[link]) for link in served.links]
    for rater in raters:
        rater.start()
    for _ in range(5):
        done.wait(0.4)
        served.kill()
        served = Served(folder[0], served.port)
    for rater in raters:
        rater.join(timeout=120)
    served.kill()
    votes = read_any_votes(folder[0])
    store = open_store(folder[0])
    assert len(votes) == store.num_decisions() == 3 * total
    assert len({(vote.rater, vote.criterion, vote.pair) for vote in votes}) == 3 * total
    store.close()


def test_two_servers_of_one_study_do_not_disturb_each_other(folder):
    one, two = open_store(folder[0]), open_store(folder[0])
    threads = [
        threading.Thread(
            target=lambda store, rater: [
                store.decide(rater, Decision(f"{rater}-{i:04d}", i, "left", 1.0, 0.0)).result() for i in range(20)
            ],
            args=[store, rater],
        )
        for store in (one, two)
        for rater in ("rater-1", "rater-2")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one.num_decisions() == two.num_decisions() == 40
    one.close(), two.close()


def test_the_folder_may_be_moved(folder, tmp_path):
    store = open_store(folder[0])
    store.decide("rater-1", Decision("some-id-00", 0, "left", 1.0, 0.0)).result()
    store.close()
    shutil.move(folder[0], tmp_path / "elsewhere")
    assert len(read_any_votes(tmp_path / "elsewhere")) == 1
