"""Which runs are one candidate: grouping by configuration, search with final stage, protocol by protocol. Pure.

A candidate is a row of a frame: everything a leaderboard says of the runs themselves is computed a column at a time, since a
board of thousands of rows is made again at every look.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import polars as pl

FINISHED = "FINISHED"
AT = "_at"
"""The place of a candidate's first run in the frame that it comes from."""
TAGS = (
    *("row", "config_hash", "stage", "protocol", "sweep", "seed", "fold", "method", "reference", "status_reason", "commit"),
    *("published", "label", "published_rule", "rule", "not_comparable"),
)
STATED = ("published", "label", "published_rule", "rule", "not_comparable")
"""Tags that a candidate's final runs state where it has any; else any of its runs."""
TEXTS = ("run_id", "experiment", "experiment_id", "status", "start_time")
PARAMS = ("student.dim", "student.resolution", "student.backbone", "teacher.resolution")
SECONDS = ("cost/gpu_seconds", "cost/train_seconds")
METRICS = (
    *("test_looks", "model/gflops", "model/parameters", "model/dim", "model/latency_ms", "cost/latency_ms"),
    *("model/gallery_resolution", *SECONDS),
)
"""What of the runs a row is made from; all else of them is looked up where it is asked for."""


class Piece(NamedTuple):
    """The runs of one configuration whose search has one protocol, and whose final stage has one (None: no such stage)."""

    config_hash: str
    validation: str | None
    test: str | None
    runs: list[int]
    """Their places in the table of runs, the earliest first: those of the search, then those of the final stage."""


def candidates(runs: pl.DataFrame, select_by: str, report: str) -> pl.DataFrame:
    """Every candidate in `runs`, in order of its first run. Parent runs of sweeps, which have no configuration, are left out.

    Columns: what `tracking.columns` names of the runs themselves; `selected` and `reported`, the scores (lists of float64) of
    the counted runs, whose ids are `search_runs` and `final_runs`; `sweeps` (a list); the tags in `STATED`; `measured`: whether
    there is a score, or may still be one; and `_at`.
    """
    import polars as pl

    table = _table(runs, select_by, report)
    pieces = _pieces(table)
    places = [place for piece in pieces for place in piece.runs]
    numbers = [number for number, piece in enumerate(pieces) for _ in piece.runs]
    long = table[places].with_columns(pl.Series("piece", numbers, pl.UInt32)).with_row_index("place")
    long = _marked(long)
    tables = _tables(pieces)
    own = [piece.validation if piece.validation is not None else piece.test or "" for piece in pieces]
    frame = pl.DataFrame(
        {
            "piece": pl.Series(range(len(pieces)), dtype=pl.UInt32),
            "config_hash": pl.Series([piece.config_hash for piece in pieces], dtype=pl.String),
            "own_protocol": pl.Series(own, dtype=pl.String),
            "protocol": pl.Series([tables[piece.validation, piece.test] for piece in pieces], dtype=pl.String),
        }
    )
    for part in (_facts(long), _scores(long), _looks(long), _stated(long), _representatives(long)):
        frame = frame.join(part, on="piece", how="left", maintain_order="left")
    return _completed(frame)


def _table(runs: pl.DataFrame, select_by: str, report: str) -> pl.DataFrame:
    """The needed columns of the runs that have a configuration, the earliest run first; null where nobody logged a column."""
    import polars as pl

    wanted: dict[str, tuple[str, Any]] = {name: (name, None) for name in TEXTS}
    wanted |= {name: (f"tags.dmkd.{name}", pl.String) for name in TAGS}
    wanted |= {name: (f"params.{name}", pl.String) for name in PARAMS}
    wanted |= {name: (f"metrics.{name}", pl.Float64) for name in METRICS}
    wanted |= {"selected": (f"metrics.{select_by}", pl.Float64), "reported": (f"metrics.{report}", pl.Float64)}
    known = set(runs.columns)
    columns = [
        (pl.col(column) if column in known else pl.lit(None, pl.String)).alias(name)
        if dtype is None
        else (pl.col(column) if column in known else pl.lit(None)).cast(dtype).alias(name)
        for name, (column, dtype) in wanted.items()
    ]
    given = pl.when(pl.col("row") != "").then("row").otherwise("config_hash")
    table = runs.select(columns).with_row_index(AT).with_columns(given.alias("row"), final=pl.col("stage").eq_missing("final"))
    return table.filter(pl.col("row") != "").sort("start_time", "run_id", nulls_last=True)


def _pieces(table: pl.DataFrame) -> list[Piece]:
    by_hash: dict[str, list[int]] = defaultdict(list)
    for place, config_hash in enumerate(table["row"].to_list()):
        by_hash[config_hash].append(place)
    final, sweeps = table["final"].to_list(), table["sweep"].to_list()
    protocols = table["protocol"].fill_null("").to_list()
    found: list[Piece] = []
    for config_hash, places in by_hash.items():
        stages: tuple[dict[str, list[int]], dict[str, list[int]]] = ({}, {})
        for place in places:
            stages[final[place]].setdefault(protocols[place], []).append(place)
        found += _by_protocol(config_hash, *stages, sweeps)
    return found


def _by_protocol(
    config_hash: str, search: dict[str, list[int]], final: dict[str, list[int]], sweeps: list[str | None]
) -> list[Piece]:
    if not search:
        return [Piece(config_hash, None, protocol, places) for protocol, places in final.items()]
    pieces = []
    for validation, places in search.items():
        mine = {sweeps[place] for place in places}
        own = {test: [place for place in tested if len(search) == 1 or sweeps[place] in mine] for test, tested in final.items()}
        matched = [Piece(config_hash, validation, test, places + tested) for test, tested in own.items() if tested]
        pieces += matched or [Piece(config_hash, validation, None, places)]
    return pieces


def _tables(pieces: list[Piece]) -> dict[tuple[str | None, str | None], str]:
    """Which table a row belongs to. A row without a final stage (or a reference without a search) joins the only one it fits."""
    pairs = {(piece.validation, piece.test) for piece in pieces}

    def joined(validation: str | None, test: str | None) -> str:
        if test is None:
            fits = {other for mine, other in pairs if mine == validation and other is not None}
            test = fits.pop() if len(fits) == 1 else None
        if validation is None:
            fits = {mine for mine, other in pairs if other == test and mine is not None}
            validation = fits.pop() if len(fits) == 1 else None
        return "+".join(dict.fromkeys(part for part in (validation, test) if part))

    return {pair: joined(*pair) for pair in pairs}


def _marked(long: pl.DataFrame) -> pl.DataFrame:
    """With `score`, and `counted`: the earliest finished run of each seed and fold that logged its stage's metric."""
    import polars as pl

    long = long.with_columns(score=pl.when("final").then("reported").otherwise("selected"))
    scored = long.filter((pl.col("status") == FINISHED) & pl.col("score").is_not_null())
    counted = scored.unique(["piece", "final", "seed", "fold"], keep="first")["place"]
    return long.with_columns(counted=pl.col("place").is_in(counted.implode()))


def _facts(long: pl.DataFrame) -> pl.DataFrame:
    """Of every column what the earliest run has that logged it, and sums over all runs."""
    import polars as pl

    firsts = ["method", "reference", "experiment", "experiment_id", "commit", *PARAMS]
    firsts += [name for name in METRICS if name.startswith("model/") or name == "cost/latency_ms"]
    gpu, train = (pl.when(column.is_finite()).then(column).otherwise(0.0) for column in map(pl.col, SECONDS))
    finished = pl.col("status") == FINISHED
    measured = pl.col("selected").is_not_null() | pl.col("reported").is_not_null()
    return long.group_by("piece").agg(
        *(pl.col(name).drop_nulls().first() for name in firsts),
        (gpu.sum() / 3600).alias("gpu_hours"),
        (train.filter(gpu == 0).sum() / 3600).alias("cpu_hours"),  # of a run on a card its share of that is the cost
        pl.col(AT).first(),
        pl.col("status").first().alias("first_status"),
        pl.col("status_reason").str.starts_with("pruned").any().alias("pruned"),
        pl.len().alias("runs"),
        (pl.col("status") == "FAILED").sum().alias("failed"),
        pl.col("sweep").filter(pl.col("sweep") != "").unique().alias("sweeps"),
        (pl.col("stage") == "search").sum().alias("searched"),
        (~finished.any() | (finished & measured).any()).alias("measured"),
    )


def _scores(long: pl.DataFrame) -> pl.DataFrame:
    """The counted runs and their scores, by stage."""
    import polars as pl

    final = pl.col("final")
    return (
        long.filter("counted")
        .group_by("piece")
        .agg(
            pl.col("score").filter(~final).alias("selected"),
            pl.col("score").filter(final).alias("reported"),
            pl.col("run_id").filter(~final).alias("search_runs"),
            pl.col("run_id").filter(final).alias("final_runs"),
        )
    )


def _looks(long: pl.DataFrame) -> pl.DataFrame:
    """How often one seed's network has seen the test classes; more than 1: somebody looked again."""
    import polars as pl

    of_seeds = long.group_by("piece", "seed").agg(pl.col("test_looks").sum())
    return of_seeds.group_by("piece").agg(pl.col("test_looks").max().cast(pl.Int64))


def _stated(long: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    tested = (pl.col("counted") & pl.col("final")).any().over("piece")
    among = long.filter(~tested | (pl.col("counted") & pl.col("final")))
    return among.group_by("piece").agg(pl.col(name).filter(pl.col(name) != "").first() for name in STATED)


def _representatives(long: pl.DataFrame) -> pl.DataFrame:
    """The run whose checkpoint stands for the row: the final run of the lowest seed (a choice that no score has made)."""
    import polars as pl

    order = pl.when(pl.col("counted") & pl.col("final")).then(0).when("counted").then(1).otherwise(2)
    seed = pl.col("seed").cast(pl.Float64, strict=False).fill_null(0.0)
    best = long.sort("piece", order, seed, "run_id").unique("piece", keep="first")
    return best.select("piece", pl.col("run_id"))


def _completed(frame: pl.DataFrame) -> pl.DataFrame:
    """What is said in other words than the runs say it."""
    import polars as pl

    ended = pl.when("pruned").then(pl.lit("pruned")).otherwise(pl.col("first_status").str.to_lowercase())
    size = {name: pl.col(name).cast(pl.Float64, strict=False) for name in ("student.dim", "student.resolution")}
    counted = pl.col("search_runs").is_not_null()
    wall = pl.col("teacher.resolution").cast(pl.Float64, strict=False)  # 0: the teacher's own, which only the run knew
    return frame.with_columns(
        pl.when(pl.col("method") != "").then("method").otherwise(pl.lit("run")).alias("method"),
        pl.when(pl.col("reference") != "").then("reference").alias("reference"),
        pl.when(counted).then(pl.lit("finished")).otherwise(ended).alias("status"),
        pl.col("model/gflops").alias("gflops"),
        pl.col("model/parameters").alias("parameters"),
        pl.when(pl.col("model/dim") != 0).then("model/dim").otherwise(size["student.dim"]).alias("dim"),
        size["student.resolution"].alias("resolution"),
        pl.coalesce(pl.when(wall != 0).then(wall), "model/gallery_resolution").alias("teacher.resolution"),
        pl.col("student.backbone").alias("backbone"),
        pl.coalesce("model/latency_ms", "cost/latency_ms").alias("latency_ms"),
        *(pl.col(name).fill_null([]) for name in ("selected", "reported", "search_runs", "final_runs")),
    )


def number(text: Any) -> float | None:
    """A param as a number, or None."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
