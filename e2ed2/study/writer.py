"""One thread that keeps what is sent: all rows that wait in one transaction, so that the disk takes its time once."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from sqlalchemy import Connection, Engine, Table, select
from sqlalchemy.dialects import postgresql, sqlite


class Conflict(Exception):
    """An id that is taken by something else."""


@dataclass(frozen=True)
class _Row:
    """A row with an id of its sender's own; `same`: the columns that tell it from another of that id."""

    table: Table
    values: dict[str, Any]
    same: Sequence[str]
    end: Future[None] = field(default_factory=Future)


class Writer:
    """Keeps rows that have a `rater`, and an `id` that is the rater's own, in the order in which they come."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
        self._waiting: SimpleQueue[_Row | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def keep(self, table: Table, values: dict[str, Any], same: Sequence[str]) -> Future[None]:
        """A row for the table, which stays as it is where its id is there.

        Args:
            same: columns in which the row that is there must be equal.
        Returns:
            What ends when the row is on the disk, with `Conflict` where another one has its id.
        """
        row = _Row(table, values, same)
        row.end.set_running_or_notify_cancel()  # who stops waiting stops nothing
        self._waiting.put(row)
        return row.end

    def close(self) -> None:
        """Keep what waits, and end."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        is_open = True
        while is_open:
            waiting = [self._waiting.get()]
            while not self._waiting.empty():
                waiting.append(self._waiting.get())
            rows = [row for row in waiting if row is not None]
            is_open = len(rows) == len(waiting)
            try:
                with self._engine.begin() as connection:
                    conflicts = [self._is_conflict(connection, row) for row in rows]
            except Exception as error:  # whatever it is, none of them is kept, and all who wait must hear it
                for row in rows:
                    row.end.set_exception(error)
                continue
            for row, is_conflict in zip(rows, conflicts, strict=True):
                if is_conflict:
                    row.end.set_exception(Conflict(row.values["id"]))
                else:
                    row.end.set_result(None)

    def _is_conflict(self, connection: Connection, row: _Row) -> bool:
        """Insert the row, unless its id is there; whether it is there with something else."""
        statement = self._dialect.insert(row.table).values(row.values).on_conflict_do_nothing()
        if connection.execute(statement).rowcount == 1:
            return False
        columns, values = row.table.c, row.values
        mine = (columns.rater == values["rater"]) & (columns.id == values["id"])
        there = connection.execute(select(*(columns[name] for name in row.same)).where(mine)).one()
        return tuple(there) != tuple(values[name] for name in row.same)
