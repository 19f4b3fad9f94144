"""Runs of an SQL database other than sqlite (PostgreSQL, MySQL, SQL Server), without MLflow's client: columns, not objects.

Tried on PostgreSQL 15 and MariaDB 10.11 (tests/tracking/test_sources.py); SQL Server has not been.
A run is looked at before its values: one that is found to have ended had logged all of them by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tracking.conditions import Condition
from tracking.errors import TrackingError
from tracking.frames import INFOS, as_logged, by_key, from_tuples, info_kinds, part_kinds

if TYPE_CHECKING:
    import polars as pl

KINDS = ("postgresql", "mysql", "mssql")
"""What MLflow takes beside sqlite; a driver may follow, as in `postgresql+psycopg2`."""
COLUMNS = {name: name for name in ("name", "status", "start_time", "end_time", "artifact_uri")} | {"run_id": "run_uuid"}
"""What is read of a run -> its column of the table `runs`."""
PARTS = {"params": "params", "tags": "tags", "metrics": "latest_metrics"}
"""What a run has logged -> its table."""


def is_sql(uri: str) -> bool:
    """Whether `uri` names a database that is read here."""
    return uri.partition(":")[0].partition("+")[0] in KINDS


class Sql:
    """What MLflow keeps in a database that an engine of SQLAlchemy reaches. Raises `TrackingError` without an answer."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    @classmethod
    def at(cls, uri: str) -> Sql:
        """Raises `TrackingError` where the driver that `uri` names is not installed, or it is no address."""
        import sqlalchemy as sa

        try:
            return cls(sa.create_engine(uri, poolclass=sa.NullPool))
        except (ImportError, sa.exc.ArgumentError) as error:
            kind = uri.partition(":")[0]
            raise TrackingError(f"tracking URI of {kind}: {error}; install its driver (pip), or mend the address") from None

    def experiments(self) -> dict[str, str]:
        """The id of every experiment that is not deleted, by name."""
        import sqlalchemy as sa

        table = _table("experiments", "name", "experiment_id", "lifecycle_stage")
        with self._connected() as connection:
            query = sa.select(table.c.name, table.c.experiment_id).where(table.c.lifecycle_stage == "active")
            return {name: str(place) for name, place in connection.execute(query)}

    def runs(self, experiment: str, asked: Condition | None = None, deleted: bool = False) -> pl.DataFrame:
        """The runs of an experiment that are not deleted (or are), all or those `asked` for, as `tracking.frames` has them."""
        import polars as pl
        import sqlalchemy as sa

        table = _table("runs", *COLUMNS.values(), "experiment_id", "lifecycle_stage")
        chosen = [table.c.experiment_id == int(experiment), table.c.lifecycle_stage == ("deleted" if deleted else "active")]
        chosen += [_clause(table.c[COLUMNS[asked.field]], asked.value)] if asked else []
        infos = sa.select(*(table.c[column].label(name) for name, column in COLUMNS.items())).where(*chosen)
        known = info_kinds()
        with self._connected() as connection:
            frame = from_tuples(connection.execute(infos), {name: known[name] for name in COLUMNS})
            for part in PARTS:
                values = _values(connection, part, sa.select(table.c.run_uuid).where(*chosen))
                frame = frame.join(values, on="run_id", how="left", maintain_order="left")
        named = frame.with_columns(experiment=pl.lit(None, pl.String), experiment_id=pl.lit(str(experiment)))
        return named.select(*INFOS, pl.exclude(INFOS))

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        import sqlalchemy as sa

        try:
            with self.engine.connect() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
            raise TrackingError(f"tracking database {self.engine.url!r}: {reason}; is it running, and is it MLflow's?") from None


def _table(name: str, *columns: str) -> Any:
    import sqlalchemy as sa

    return sa.table(name, *map(sa.column, columns))


def _clause(column: Any, value: str | int | tuple[str, ...]) -> Any:
    if isinstance(value, tuple):
        return column.in_(value)
    return column >= value if isinstance(value, int) else column == value


def _values(connection: Any, part: str, members: Any) -> pl.DataFrame:
    """A column for every key that the runs have logged."""
    import polars as pl
    import sqlalchemy as sa

    table = _table(PARTS[part], "run_uuid", "key", "value", "is_nan")
    numbers = part == "metrics"
    value = sa.case((table.c.is_nan == sa.true(), sa.null()), else_=table.c.value) if numbers else table.c.value
    kinds = {"run_id": pl.String, "key": pl.String, "value": part_kinds()[part]}
    fetch = _by_run if connection.dialect.name == "postgresql" else _by_row
    long = fetch(connection, (table.c.run_uuid, table.c.key, value), table.c.run_uuid.in_(members), kinds)
    return by_key(long.with_columns(as_logged(long["value"])) if numbers else long, part)


def _by_row(connection: Any, columns: Any, chosen: Any, kinds: dict[str, Any]) -> pl.DataFrame:
    import sqlalchemy as sa

    return from_tuples(connection.execute(sa.select(*columns).where(chosen)), kinds)


def _by_run(connection: Any, columns: Any, chosen: Any, kinds: dict[str, Any]) -> pl.DataFrame:
    """The same by JSON arrays, a row a run: Python makes no object of a value, and PostgreSQL prints floats without loss."""
    import polars as pl
    import sqlalchemy as sa

    run, *parts = columns
    arrays = [sa.cast(sa.func.json_agg(part), sa.Text) for part in parts]
    rows = from_tuples(connection.execute(sa.select(run, *arrays).where(chosen).group_by(run)), dict.fromkeys(kinds, pl.String))
    decoded = [pl.col(name).str.json_decode(pl.List(kind)) for name, kind in list(kinds.items())[1:]]
    return rows.with_columns(decoded).explode("key", "value")
