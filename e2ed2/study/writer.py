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
                    conflicts = self._conflicts(connection, rows)
            except Exception as error:  # whatever it is, none of them is kept, and all who wait must hear it
                for row in rows:
                    row.end.set_exception(error)
                continue
            for row in rows:
                if row in conflicts:
                    row.end.set_exception(Conflict(row.values["id"]))
                else:
                    row.end.set_result(None)

    def _conflicts(self, connection: Connection, rows: Sequence[_Row]) -> list[_Row]:
        """Insert the rows whose ids are not there; those whose id is there with something else."""
        conflicts = []
        for table in {row.table: None for row in rows}:
            mine = [row for row in rows if row.table is table]
            key = table.c.rater, table.c.id
            insert = self._dialect.insert(table).on_conflict_do_nothing().returning(*key)
            # One statement for all: each turn that this thread waits for costs more than the row.
            new = {tuple(found) for found in connection.execute(insert, [row.values for row in mine])}
            for row in mine:
                if (sent := (row.values["rater"], row.values["id"])) in new:
                    new.remove(sent)  # of two that wait together the first
                    continue
                there = select(*(table.c[name] for name in row.same))
                found = connection.execute(there.where(key[0] == row.values["rater"], key[1] == row.values["id"])).one()
                if tuple(found) != tuple(row.values[name] for name in row.same):
                    conflicts.append(row)
        return conflicts
