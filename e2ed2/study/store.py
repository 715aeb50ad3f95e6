"""What happens in a study, in SQLite or PostgreSQL: decisions, raised hands, links, pause. The only file with SQL.

A decision is a row that is never changed; the one that stands is a screen's last. Each carries an id that its sender
made: sent twice, it is there once.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    case,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from e2ed2.study.folder import DATABASE
from e2ed2.system.errors import UserError, said

SCHEMA_VERSION = 1
LONGEST_PAUSE = 120.0  # seconds; what a decision counts at the most in a rater's mean
BUSY_SECONDS = 30  # for how long a writer of SQLite waits for another

Choice = Literal["left", "right", "none"]

_tables = MetaData()
_about = Table("about", _tables, Column("schema_version", Integer), Column("study", String))
_raters = Table(
    "rater", _tables,
    Column("name", String, primary_key=True), Column("issue", Integer, nullable=False),
    Column("is_revoked", Boolean, nullable=False), Column("finished_at", Float),
)  # fmt: skip
_decisions = Table(
    "decision", _tables,
    Column("number", Integer, primary_key=True, autoincrement=True), Column("rater", String, nullable=False),
    Column("id", String, nullable=False), Column("screen", Integer, nullable=False),
    Column("choice", String, nullable=False), Column("seconds", Float, nullable=False),
    Column("decided_at", Float, nullable=False), UniqueConstraint("rater", "id"),
    Index("decision_of_screen", "rater", "screen", "number"),
)  # fmt: skip
_hands = Table(
    "hand", _tables,
    Column("number", Integer, primary_key=True, autoincrement=True), Column("rater", String, nullable=False),
    Column("id", String, nullable=False), Column("screen", Integer, nullable=False),
    Column("text", String, nullable=False), Column("raised_at", Float, nullable=False),
    Column("reply", String), Column("replied_at", Float), Column("is_read", Boolean, nullable=False),
    UniqueConstraint("rater", "id"),
)  # fmt: skip
_settings = Table("setting", _tables, Column("name", String, primary_key=True), Column("value", String))
_sessions = Table("session", _tables, Column("sha256", String, primary_key=True), Column("ends_at", Float))
_PAUSED = select(_settings.c.value).where(_settings.c.name == "paused")


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


class Conflict(Exception):
    """An id that is taken by something else."""


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
        with _said_of(self._engine, url), self._engine.begin() as connection:
            _open(connection, study, raters, self._engine.url.render_as_string())

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    def standing(self, rater: str) -> Standing:
        """Where a rater is."""
        with self._engine.connect() as connection:
            return _standing(connection, rater)

    def choice(self, rater: str, screen: int) -> str | None:
        """What stands on a screen; None before a decision."""
        mine = (_decisions.c.rater == rater) & (_decisions.c.screen == screen)
        query = select(_decisions.c.choice).where(mine).order_by(_decisions.c.number.desc()).limit(1)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar()

    def decide(self, rater: str, decision: Decision) -> None:
        """Keep a decision, on the disk before this returns; one that is there already stays as it is.

        Raises:
            Conflict: another decision has its id.
        """
        self._keep(_decisions, rater, vars(decision), ("screen", "choice"))

    def decisions(self) -> Iterator[tuple[str, Decision]]:
        """(rater, decision) of all, in the order in which they were kept."""
        columns = [_decisions.c[name] for name in ("rater", "id", "screen", "choice", "seconds", "decided_at")]
        with self._engine.connect() as connection:
            for rater, *values in connection.execute(select(*columns).order_by(_decisions.c.number)):
                yield rater, Decision(*values)

    def num_decisions(self) -> int:
        """How many were ever kept, revised ones included."""
        with self._engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(_decisions)).scalar_one()

    def raise_hand(self, rater: str, id: str, screen: int, text: str) -> None:
        """Keep a raised hand; one that is there already stays as it is.

        Raises:
            Conflict: another one has its id.
        """
        values = {"id": id, "screen": screen, "text": text, "raised_at": time.time(), "is_read": False}
        self._keep(_hands, rater, values, ("text",))

    def hands(self, rater: str | None = None) -> list[Hand]:
        """All raised hands, or one rater's, the first first."""
        query = select(_hands).order_by(_hands.c.number)
        if rater is not None:
            query = query.where(_hands.c.rater == rater)
        with self._engine.connect() as connection:
            return [Hand(**row) for row in connection.execute(query).mappings()]

    def reply(self, number: int, text: str) -> None:
        """Answer a raised hand; a later reply replaces an earlier one."""
        values = {"reply": text, "replied_at": time.time(), "is_read": False}
        self._write(update(_hands).where(_hands.c.number == number).values(values))

    def read_replies(self, rater: str) -> None:
        """The rater has seen the replies that there are."""
        self._write(update(_hands).where(_hands.c.rater == rater, _hands.c.reply.is_not(None)).values(is_read=True))

    def finish(self, rater: str) -> None:
        """The rater has handed in: nothing of his changes from now on."""
        unfinished = (_raters.c.name == rater) & _raters.c.finished_at.is_(None)
        self._write(update(_raters).where(unfinished).values(finished_at=time.time()))

    def revoke(self, rater: str) -> None:
        """No link of the rater is valid from now on."""
        self._write(update(_raters).where(_raters.c.name == rater).values(is_revoked=True))

    def issue_link(self, rater: str) -> None:
        """A new link becomes valid, and every earlier one is not."""
        values = {"issue": _raters.c.issue + 1, "is_revoked": False}
        self._write(update(_raters).where(_raters.c.name == rater).values(values))

    def pause(self, is_paused: bool) -> None:
        """Stop the study, or let it go on."""
        self._write(update(_settings).where(_settings.c.name == "paused").values(value=str(int(is_paused))))

    def is_paused(self) -> bool:
        """Whether the study is stopped."""
        with self._engine.connect() as connection:
            return connection.execute(_PAUSED).scalar_one() == "1"

    def progress(self) -> list[Progress]:
        """Of each rater, by name."""
        capped = case((_decisions.c.seconds > LONGEST_PAUSE, LONGEST_PAUSE), else_=_decisions.c.seconds)
        made = (
            select(
                _decisions.c.rater, (func.max(_decisions.c.screen) + 1).label("num_decided"),
                func.avg(capped).label("seconds"), func.max(_decisions.c.decided_at).label("last_at"),
            ).group_by(_decisions.c.rater).subquery()
        )  # fmt: skip
        columns = (
            _raters.c.name.label("rater"), _raters.c.issue, _raters.c.is_revoked, _raters.c.finished_at,
            func.coalesce(made.c.num_decided, 0).label("num_decided"), made.c.seconds, made.c.last_at,
        )  # fmt: skip
        query = select(*columns).outerjoin(made, made.c.rater == _raters.c.name).order_by(_raters.c.name)
        with self._engine.connect() as connection:
            return [Progress(**row) for row in connection.execute(query).mappings()]

    def begin_session(self, token: str, seconds: float) -> None:
        """Remember an organiser's session by its hash; those that have ended are forgotten."""
        with self._engine.begin() as connection:
            connection.execute(_sessions.delete().where(_sessions.c.ends_at < time.time()))
            connection.execute(insert(_sessions).values(sha256=_hash(token), ends_at=time.time() + seconds))

    def is_session(self, token: str) -> bool:
        """Whether an organiser's session goes on."""
        query = select(_sessions.c.ends_at).where(_sessions.c.sha256 == _hash(token))
        with self._engine.connect() as connection:
            ends_at = connection.execute(query).scalar()
        return ends_at is not None and ends_at > time.time()

    def end_session(self, token: str) -> None:
        """Forget a session."""
        self._write(_sessions.delete().where(_sessions.c.sha256 == _hash(token)))

    def _keep(self, table: Table, rater: str, values: dict[str, Any], same: Sequence[str]) -> None:
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table).values(rater=rater, **values).on_conflict_do_nothing()
        with self._engine.begin() as connection:
            if connection.execute(statement).rowcount == 1:
                return
            mine = (table.c.rater == rater) & (table.c.id == values["id"])
            there = connection.execute(select(*(table.c[name] for name in same)).where(mine)).one()
        if tuple(there) != tuple(values[name] for name in same):
            raise Conflict(values["id"])

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
            return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=10)
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
def _said_of(engine: Engine, url: str) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, SQLAlchemyError) as error:
        reason = said(error.orig) if isinstance(error, DBAPIError) and error.orig else said(error)
        where = engine.url.render_as_string()  # without the password
        raise UserError(f"database {where}: cannot be used ({reason}); mend it or give another") from error


def _open(connection: Connection, study: str, raters: Sequence[str], where: str) -> None:
    """Make the tables in an empty database, or see that those that are there are of this study and version."""
    there = inspect(connection).get_table_names()
    if not there:
        _tables.create_all(connection)
        connection.execute(insert(_about).values(schema_version=SCHEMA_VERSION, study=study))
        connection.execute(insert(_settings).values(name="paused", value="0"))
        connection.execute(insert(_raters), [{"name": name, "issue": 1, "is_revoked": False} for name in raters])
        return
    about = connection.execute(select(_about)).one_or_none() if _about.name in there else None
    if about is None:
        raise UserError(f"database {where}: holds tables of something else, which stay; give an empty one")
    if about.schema_version != SCHEMA_VERSION:
        what = f"of version {about.schema_version}, this e2ed2 reads version {SCHEMA_VERSION}"
        raise UserError(f"database {where}: {what}; nothing was changed: serve it with the e2ed2 that made it")
    if about.study != study:
        raise UserError(f"database {where}: holds the votes of another study, which stay; give an empty one")


def _standing(connection: Connection, rater: str) -> Standing:
    last = select(func.max(_decisions.c.screen)).where(_decisions.c.rater == rater).scalar_subquery()
    paused = _PAUSED.scalar_subquery()
    columns = (_raters.c.issue, _raters.c.is_revoked, _raters.c.finished_at, last, paused)
    issue, is_revoked, finished_at, reached, is_paused = connection.execute(
        select(*columns).where(_raters.c.name == rater)
    ).one()
    return Standing(issue, is_revoked, finished_at is not None, is_paused == "1", 0 if reached is None else reached + 1)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
