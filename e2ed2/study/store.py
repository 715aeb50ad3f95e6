"""What happens in a study, in SQLite or PostgreSQL: decisions, raised hands, links, pause. SQL is here, in
`tables` and in `writer`, and nowhere else.

A decision is a row that is never changed; the one that stands is a screen's last. Each carries an id that its sender
made: sent twice, it is there once.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Engine, case, create_engine, event, func, insert, inspect, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from e2ed2.study.folder import DATABASE
from e2ed2.study.tables import ABOUT, DECISIONS, HANDS, PAUSED, RATERS, SCHEMA_VERSION, SESSIONS, SETTINGS, TABLES
from e2ed2.study.writer import Writer
from e2ed2.system.errors import UserError, said

LONGEST_PAUSE = 120.0  # seconds; what a decision counts at the most in a rater's mean
POOL_SECONDS, CONNECT_SECONDS = 1800, 5  # for how long a connection to PostgreSQL is used, and may take to come
BUSY_SECONDS = 30  # for how long a writer of SQLite waits for another

Choice = Literal["left", "right", "none"]


@dataclass(frozen=True)
class Decision:
    """What a rater decided on a screen. id: its sender's own. seconds: it took. decided_at: seconds since 1970, UTC."""

    id: str
    screen: int
    choice: str
    seconds: float
    decided_at: float


@dataclass(frozen=True)
class Hand:
    """A raised hand, and the reply once there is one; times in seconds since 1970, UTC."""

    number: int
    rater: str
    id: str
    screen: int
    text: str
    raised_at: float
    reply: str | None
    replied_at: float | None
    is_read: bool


@dataclass(frozen=True)
class Standing:
    """Where a rater is. issue: of the link that is valid. num_decided: screens, from the first on."""

    issue: int
    is_revoked: bool
    is_finished: bool
    is_paused: bool
    num_decided: int


@dataclass(frozen=True)
class Progress:
    """What the organiser sees of a rater. seconds: a decision's mean, None before the first; last_at: of the last."""

    rater: str
    issue: int
    is_revoked: bool
    finished_at: float | None
    num_decided: int
    seconds: float | None
    last_at: float | None


class Store:
    """The open database of one study.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`.
        study: its id; raters: the names of all.
    Raises:
        UserError: it cannot be opened, is of another version or study, or is no database.
    """

    def __init__(self, url: str, study: str, raters: Sequence[str]) -> None:
        self._engine = _engine(url)
        with _said_of(self._engine), self._engine.begin() as connection:
            _open(connection, study, raters, self._engine.url.render_as_string())
        self._reading = self._engine.execution_options(isolation_level="AUTOCOMMIT")  # one question, one answer
        self._writer = Writer(self._engine)

    def close(self) -> None:
        """Give all connections back, once what waits is kept."""
        self._writer.close()
        self._engine.dispose()

    def standing(self, rater: str) -> Standing:
        """Where a rater is."""
        with self._reading.connect() as connection:
            return _standing(connection, rater)

    def choice(self, rater: str, screen: int) -> str | None:
        """What stands on a screen; None before a decision."""
        mine = (DECISIONS.c.rater == rater) & (DECISIONS.c.screen == screen)
        query = select(DECISIONS.c.choice).where(mine).order_by(DECISIONS.c.number.desc()).limit(1)
        with self._reading.connect() as connection:
            return connection.execute(query).scalar()

    def decide(self, rater: str, decision: Decision) -> Future[None]:
        """Keep a decision; one that is there already stays as it is.

        Returns:
            What ends when the decision is on the disk; with `Conflict` where another one has its id.
        """
        return self._writer.keep(DECISIONS, {"rater": rater, **vars(decision)}, ("screen", "choice"))

    def decisions(self) -> Iterator[tuple[str, Decision]]:
        """(rater, decision) of all, in the order in which they were kept."""
        columns = [DECISIONS.c[name] for name in ("rater", "id", "screen", "choice", "seconds", "decided_at")]
        with self._reading.connect() as connection:
            for rater, *values in connection.execute(select(*columns).order_by(DECISIONS.c.number)):
                yield rater, Decision(*values)

    def num_decisions(self) -> int:
        """How many were ever kept, revised ones included."""
        with self._reading.connect() as connection:
            return connection.execute(select(func.count()).select_from(DECISIONS)).scalar_one()

    def raise_hand(self, rater: str, id: str, screen: int, text: str) -> None:
        """Keep a raised hand; one that is there already stays as it is.

        Raises:
            Conflict: another one has its id.
        """
        values = {"id": id, "screen": screen, "text": text, "raised_at": time.time(), "is_read": False}
        self._writer.keep(HANDS, {"rater": rater, **values}, ("text",)).result()

    def hands(self, rater: str | None = None) -> list[Hand]:
        """All raised hands, or one rater's, the first first."""
        query = select(HANDS).order_by(HANDS.c.number)
        if rater is not None:
            query = query.where(HANDS.c.rater == rater)
        with self._reading.connect() as connection:
            return [Hand(**row) for row in connection.execute(query).mappings()]

    def reply(self, number: int, text: str) -> None:
        """Answer a raised hand; a later reply replaces an earlier one."""
        values = {"reply": text, "replied_at": time.time(), "is_read": False}
        self._write(update(HANDS).where(HANDS.c.number == number).values(values))

    def read_replies(self, rater: str) -> None:
        """The rater has seen the replies that there are."""
        self._write(update(HANDS).where(HANDS.c.rater == rater, HANDS.c.reply.is_not(None)).values(is_read=True))

    def finish(self, rater: str) -> None:
        """The rater has handed in: nothing is changed from now on."""
        unfinished = (RATERS.c.name == rater) & RATERS.c.finished_at.is_(None)
        self._write(update(RATERS).where(unfinished).values(finished_at=time.time()))

    def revoke(self, rater: str) -> None:
        """No link of the rater is valid from now on."""
        self._write(update(RATERS).where(RATERS.c.name == rater).values(is_revoked=True))

    def issue_link(self, rater: str) -> None:
        """A new link becomes valid, and every earlier one is not."""
        values = {"issue": RATERS.c.issue + 1, "is_revoked": False}
        self._write(update(RATERS).where(RATERS.c.name == rater).values(values))

    def pause(self, is_paused: bool) -> None:
        """Stop the study, or let it go on."""
        self._write(update(SETTINGS).where(SETTINGS.c.name == "paused").values(value=str(int(is_paused))))

    def is_paused(self) -> bool:
        """Whether the study is stopped."""
        with self._reading.connect() as connection:
            return connection.execute(PAUSED).scalar_one() == "1"

    def progress(self) -> list[Progress]:
        """Of each rater, by name."""
        capped = case((DECISIONS.c.seconds > LONGEST_PAUSE, LONGEST_PAUSE), else_=DECISIONS.c.seconds)
        made = (
            select(
                DECISIONS.c.rater, (func.max(DECISIONS.c.screen) + 1).label("num_decided"),
                func.avg(capped).label("seconds"), func.max(DECISIONS.c.decided_at).label("last_at"),
            ).group_by(DECISIONS.c.rater).subquery()
        )  # fmt: skip
        columns = (
            RATERS.c.name.label("rater"), RATERS.c.issue, RATERS.c.is_revoked, RATERS.c.finished_at,
            func.coalesce(made.c.num_decided, 0).label("num_decided"), made.c.seconds, made.c.last_at,
        )  # fmt: skip
        query = select(*columns).outerjoin(made, made.c.rater == RATERS.c.name).order_by(RATERS.c.name)
        with self._reading.connect() as connection:
            return [Progress(**row) for row in connection.execute(query).mappings()]

    def begin_session(self, token: str, seconds: float) -> None:
        """Remember an organiser's session by its hash; those that have ended are forgotten."""
        with self._engine.begin() as connection:
            connection.execute(SESSIONS.delete().where(SESSIONS.c.ends_at < time.time()))
            connection.execute(insert(SESSIONS).values(sha256=_hash(token), ends_at=time.time() + seconds))

    def is_session(self, token: str) -> bool:
        """Whether an organiser's session goes on."""
        query = select(SESSIONS.c.ends_at).where(SESSIONS.c.sha256 == _hash(token))
        with self._reading.connect() as connection:
            ends_at = connection.execute(query).scalar()
        return ends_at is not None and ends_at > time.time()

    def end_session(self, token: str) -> None:
        """Forget a session."""
        self._write(SESSIONS.delete().where(SESSIONS.c.sha256 == _hash(token)))

    def _write(self, statement: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(statement)


def default_url(folder: Path) -> str:
    """The SQLite database in a study's own folder."""
    return f"sqlite:///{(folder / DATABASE).absolute()}"


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        kind = parsed.get_backend_name()
        if kind not in ("sqlite", "postgresql"):
            raise UserError(f"--database-url {parsed}: must begin with postgresql:// or sqlite:///")
        if kind == "postgresql":  # psycopg 3, whichever way it was asked for
            return create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                pool_recycle=POOL_SECONDS,
                connect_args={"connect_timeout": CONNECT_SECONDS},
            )
        engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
    except (ArgumentError, NoSuchModuleError) as error:
        raise UserError(f"--database-url {url}: {said(error)}; give postgresql://USER:PASSWORD@HOST/NAME") from error
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: object) -> None:
    """Readers beside one writer; a commit is on the disk before it returns."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def _said_of(engine: Engine) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, SQLAlchemyError) as error:
        reason = said(error.orig) if isinstance(error, DBAPIError) and error.orig else said(error)
        where = engine.url.render_as_string()  # without the password
        raise UserError(f"database {where}: cannot be used ({reason}); mend it or give another") from error


def _open(connection: Connection, study: str, raters: Sequence[str], where: str) -> None:
    """Make the tables where nothing was kept yet, or see that those that are there are of this study and version."""
    there = inspect(connection).get_table_names()
    about = connection.execute(select(ABOUT)).one_or_none() if ABOUT.name in there else None
    is_begun = ABOUT.name in there and about is None and set(there) <= TABLES.tables.keys()  # by a start, then a kill
    if not there or is_begun:
        TABLES.create_all(connection)
        for index in DECISIONS.indexes:  # a table that is there already may still lack it
            index.create(connection, checkfirst=True)
        connection.execute(insert(ABOUT).values(schema_version=SCHEMA_VERSION, study=study))
        connection.execute(insert(SETTINGS).values(name="paused", value="0"))
        connection.execute(insert(RATERS), [{"name": name, "issue": 1, "is_revoked": False} for name in raters])
        return
    if about is None:
        raise UserError(f"database {where}: holds tables of something else, which stay; give an empty one")
    if about.schema_version != SCHEMA_VERSION:
        what = f"of version {about.schema_version}, this e2ed2 reads version {SCHEMA_VERSION}"
        raise UserError(f"database {where}: {what}; nothing was changed: serve it with the e2ed2 that made it")
    if about.study != study:
        raise UserError(f"database {where}: holds the votes of another study, which stay; give an empty one")


def _standing(connection: Connection, rater: str) -> Standing:
    last = select(func.max(DECISIONS.c.screen)).where(DECISIONS.c.rater == rater).scalar_subquery()
    paused = PAUSED.scalar_subquery()
    columns = (RATERS.c.issue, RATERS.c.is_revoked, RATERS.c.finished_at, last, paused)
    issue, is_revoked, finished_at, reached, is_paused = connection.execute(
        select(*columns).where(RATERS.c.name == rater)
    ).one()
    return Standing(issue, is_revoked, finished_at is not None, is_paused == "1", 0 if reached is None else reached + 1)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
