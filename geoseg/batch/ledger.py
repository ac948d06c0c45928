"""The ledger: one SQLite file beside the outputs that knows what became of each scene.

Only the process that runs the batch writes it; a scene is `done` in it after its outputs have
appeared under their names, never before. What a killed run left as `running` waits again.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from geoseg.batch.items import Item, digest
from geoseg.batch.outcome import STATES, Entry, Outcome, State
from geoseg.errors import OutputError

NAME = "ledger.sqlite"
VERSION = 1  # of the tables
PAGE = 200  # rows that are held at a time
_PATIENCE = 60  # seconds to wait for who else has the file open

# Names differ in more than case: some file systems do not tell A.tif from a.tif.
_TABLES = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE scene (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE COLLATE NOCASE,
    key TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL DEFAULT 'pending',
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    seconds REAL,
    tiles INTEGER,
    polygons INTEGER,
    km2 REAL,
    worker TEXT,
    item TEXT NOT NULL,
    outcome TEXT
);
CREATE INDEX scene_by_state ON scene (state, number);
"""


class Ledger:
    """Scenes and their states; see `Ledger.open`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    @classmethod
    @contextmanager
    def open(cls, path: Path | None, *, create: bool = True) -> Iterator[Ledger]:
        """The ledger at `path`, made where there is none; None: one in memory, for plans.

        create: False for one that is there, only to be read: nothing is left beside it.
        """
        if path is not None and not create and not path.is_file():
            raise OutputError(f"{path.parent}: holds no {NAME}: name the output of geoseg batch")
        try:
            with closing(_connected(path, create=create)) as database:
                ledger = cls(database)
                ledger._prepare(path, create=create)
                yield ledger
        except sqlite3.Error as e:
            raise OutputError(f"{path}: {_why(e)}") from e

    def _prepare(self, path: Path | None, *, create: bool) -> None:
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise OutputError(
                f"{path}: was written by another version of geoseg (tables {version}, here "
                f"{VERSION}): go on with that one, or name another folder"
            )
        tables = self._database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if version == 0 and (tables or not create):
            raise OutputError(f"{path}: is no ledger of geoseg batch: name another folder")
        if not create:
            return
        # A commit need not wait for the disk: a kill loses nothing, and after a power cut the last
        # scenes are done anew. Where the file system cannot do it, SQLite stays as it is.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            self._database.executescript(
                f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;"
            )

    # Of the run ---------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        """What was kept about the run under `key`; None where nothing was."""
        row = self._database.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def __setitem__(self, key: str, value: Any) -> None:
        with self._transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO run VALUES (?, ?)", (key, json.dumps(value))
            )

    # Scenes -------------------------------------------------------------------------------------

    def enroll(self, items: Iterable[Item]) -> int:
        """Take in scenes that are not yet known, by their keys; return how many these are.

        Of those that are known and not done, what the source now tells is kept.
        """
        new, rest = 0, iter(items)
        while page := list(islice(rest, PAGE)):
            with self._transaction():
                new += sum(self._enroll(item) for item in page)
        return new

    def _enroll(self, item: Item) -> bool:
        known = self._database.execute("SELECT id FROM scene WHERE key = ?", (item.key,)).fetchone()
        if known is not None:
            self._database.execute(
                "UPDATE scene SET item = ? WHERE key = ? AND state <> 'done'",
                (_text(replace(item, id=known[0]).as_dict()), item.key),
            )
            return False
        taken = self._database.execute("SELECT 1 FROM scene WHERE id = ?", (item.id,)).fetchone()
        if taken is not None:  # the same name in another place
            item = replace(item, id=f"{item.id}-{digest(item.key)}")
        self._database.execute(
            "INSERT INTO scene (id, key, item) VALUES (?, ?, ?)",
            (item.id, item.key, _text(item.as_dict())),
        )
        return True

    def waiting(self) -> Iterator[Item]:
        """The scenes that are pending, in order, each once; some may change state meanwhile."""
        for entry in self.entries("pending"):
            yield entry.item

    def begin(self, name: str) -> None:
        """The scene of that id is given to a worker."""
        with self._transaction():
            self._database.execute(
                "UPDATE scene SET state = 'running', attempts = attempts + 1 WHERE id = ?", (name,)
            )

    def finish(self, name: str, outcome: Outcome) -> None:
        """How the scene ended; if it is done, its outputs are in place."""
        with self._transaction():
            self._database.execute(
                "UPDATE scene SET state = ?, error = ?, seconds = ?, tiles = ?, polygons = ?, "
                "km2 = ?, worker = ?, outcome = ? WHERE id = ?",
                (
                    *(outcome.state, outcome.error, outcome.seconds, outcome.tiles),
                    *(outcome.total, outcome.km2, outcome.worker),
                    *(_text(outcome.as_dict()), name),
                ),
            )

    def again(self, *states: State, names: Iterable[str] = ()) -> int:
        """Scenes of these states, and of these ids, wait again; return how many these are."""
        changed = 0
        with self._transaction():
            for column, values in (("state", states), ("id", names)):
                for value in values:
                    changed += self._database.execute(
                        f"UPDATE scene SET state = 'pending' WHERE {column} = ?", (value,)
                    ).rowcount
        return changed

    def clear(self) -> None:
        """Forget all scenes, and all about the run."""
        with self._transaction():
            self._database.execute("DELETE FROM scene")
            self._database.execute("DELETE FROM run")

    def entries(self, *states: State) -> Iterator[Entry]:
        """The scenes of these states (of all, if none is given), in the order of their numbers."""
        last, which = 0, states or STATES
        marks = ", ".join("?" * len(which))
        while rows := self._database.execute(
            "SELECT number, state, attempts, item, outcome FROM scene "
            f"WHERE number > ? AND state IN ({marks}) ORDER BY number LIMIT {PAGE}",
            (last, *which),
        ).fetchall():
            last = rows[-1][0]
            for _, state, attempts, item, outcome in rows:
                yield Entry(
                    Item.from_dict(json.loads(item)),
                    state,
                    attempts,
                    Outcome.from_dict(json.loads(outcome)) if outcome else None,
                )

    def counts(self) -> Counter[str]:
        """Number of scenes by state."""
        rows = self._database.execute("SELECT state, COUNT(*) FROM scene GROUP BY state")
        return Counter(dict(rows.fetchall()))

    def totals(self) -> Mapping[str, float]:
        """tiles, polygons, km2 and seconds of the scenes that are done."""
        row = self._database.execute(
            "SELECT COALESCE(SUM(tiles), 0), COALESCE(SUM(polygons), 0), COALESCE(SUM(km2), 0.0), "
            "COALESCE(SUM(seconds), 0.0) FROM scene WHERE state = 'done'"
        ).fetchone()
        return dict(zip(("tiles", "polygons", "km2", "seconds"), row, strict=True))

    def stamp(self) -> list[int]:
        """Another one whenever a scene has ended, or come; of what was made of the scenes."""
        row = self._database.execute(
            "SELECT COUNT(*), COALESCE(SUM(attempts), 0), COALESCE(SUM(state = 'done'), 0) "
            "FROM scene"
        ).fetchone()
        return list(row)

    def copy_to(self, other: Ledger) -> None:
        """Make `other` the same as this one."""
        self._database.backup(other._database)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
            self._database.execute("COMMIT")
        except BaseException:  # Ctrl-C, between any two of these
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise


def _connected(path: Path | None, *, create: bool) -> sqlite3.Connection:
    """An open file; for reading only, where it is not to be made."""
    if path is None or create:
        return _connection(str(path or ":memory:"))
    address = path.absolute().as_uri()
    # Not mode=ro: SQLite would leave its journals there, as it may not remove what it has made.
    database = _connection(f"{address}?mode=rw")
    try:
        database.execute("PRAGMA query_only = ON")
        database.execute("PRAGMA user_version")
    except sqlite3.Error as e:
        database.close()
        if not isinstance(e, sqlite3.OperationalError) or Path(f"{path}-wal").exists():
            raise
        # On a file system that is read-only: nothing can be locked, and nothing changes.
        return _connection(f"{address}?immutable=1")
    return database


def _connection(address: str) -> sqlite3.Connection:
    uri = address.startswith("file:")
    return sqlite3.connect(address, timeout=_PATIENCE, isolation_level=None, uri=uri)


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, default=str)


def _why(error: sqlite3.Error) -> str:
    """What is wrong with the file, and what to do."""
    text = str(error)
    if "full" in text:
        return "could not be written (the disk is full): make room, and run the command again"
    if "locked" in text:
        return "is held by another process: wait for its end"
    if "not a database" in text or "malformed" in text:
        return f"is damaged ({text}): name another folder, or remove this one"
    return f"cannot be used ({text}): check the folder's permissions"
