"""The tables of a study's database."""

from sqlalchemy import Boolean, Column, Float, Index, Integer, MetaData, String, Table, UniqueConstraint, select

SCHEMA_VERSION = 1

TABLES = MetaData()
ABOUT = Table("about", TABLES, Column("schema_version", Integer), Column("study", String))
RATERS = Table(
    "rater", TABLES,
    Column("name", String, primary_key=True), Column("issue", Integer, nullable=False),
    Column("is_revoked", Boolean, nullable=False), Column("finished_at", Float),
)  # fmt: skip
DECISIONS = Table(
    "decision", TABLES,
    Column("number", Integer, primary_key=True, autoincrement=True), Column("rater", String, nullable=False),
    Column("id", String, nullable=False), Column("screen", Integer, nullable=False),
    Column("choice", String, nullable=False), Column("seconds", Float, nullable=False),
    Column("decided_at", Float, nullable=False), UniqueConstraint("rater", "id"),
    Index("decision_of_screen", "rater", "screen", "number"),
)  # fmt: skip
HANDS = Table(
    "hand", TABLES,
    Column("number", Integer, primary_key=True, autoincrement=True), Column("rater", String, nullable=False),
    Column("id", String, nullable=False), Column("screen", Integer, nullable=False),
    Column("text", String, nullable=False), Column("raised_at", Float, nullable=False),
    Column("reply", String), Column("replied_at", Float), Column("is_read", Boolean, nullable=False),
    UniqueConstraint("rater", "id"),
)  # fmt: skip
SETTINGS = Table("setting", TABLES, Column("name", String, primary_key=True), Column("value", String))
SESSIONS = Table("session", TABLES, Column("sha256", String, primary_key=True), Column("ends_at", Float))
PAUSED = select(SETTINGS.c.value).where(SETTINGS.c.name == "paused")
