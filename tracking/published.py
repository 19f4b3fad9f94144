"""The numbers printed in the five papers, as a table whose rows have stable keys.

`published.csv` lies beside this file: one line a printed number. A *key* names the lines that one trained network gave, as in
`s2sd/T1/cars196/msdf/ms/128`: paper, table, data set, method, base loss, dimension, and whatever else tells apart the
configurations of that table (backbone, teacher, training resolution, variant). How a number was tested (symmetric or asymmetric,
medium or hard, which resolutions) is not in the key but in `score`.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from pathlib import Path

import polars as pl

from tracking.errors import TrackingError

FILE = Path(__file__).with_name("published.csv")

PAPERS = {
    "yu2019": "Yu et al. 2019, Learning Metrics from Teachers: Compact Networks for Image Embedding",
    "s2sd": "Roth et al. 2021, Simultaneous Similarity-based Self-Distillation for Deep Metric Learning",
    "aml": "Budnik & Avrithis 2021, Asymmetric Metric Learning for Knowledge Transfer",
    "raml": "Suma & Tolias 2023, Large-to-small Image Resolution Asymmetry in Deep Metric Learning",
    "obdsd": "Zeng et al., Self-distillation with Online Diffusion on Batch Manifolds Improves Deep Metric Learning",
}
"""Citation keys of the column `paper`."""

LANDMARKS = ("roxford5k", "rparis6k", "oxford5k", "paris6k")
"""Test sets whose networks are trained on another data set (SfM-120k)."""

TESTING = re.compile(
    r"symmetric|asymmetric|medium|hard|medium\+hard|role=teacher|vs=.*|naive: .*|train_resolution=.*|no whitening|"
    r"(no )?lr schedule.*|beta=.*|student input .*|teacher sees .*|high-quality input|literature as quoted"
)
"""Tokens of `setting` that say how a number was tested, repeat another column, or explain: no part of a key."""

SHORT = {
    "semi-supervised 50% labeled": "labeled",
    "semi-supervised 50% labeled+50% unlabeled": "labeled+unlabeled",
    "semi-supervised 50% unlabeled": "unlabeled",
    "pooling=avg+max (+D)": "avg+max",
}
"""Variants that a key abbreviates."""

_FIXED = ("paper", "table", "dataset", "method", "base_loss", "dim")
_TELLING = ("backbone", "teacher_backbone", "resolution", "variant")
_NAMES = {name: name for name in ("map", "nmi", "mp_at_10")}
_SPACE = {"density": "train/embedding_density", "spectral_decay": "train/trimmed_spectral_decay"}
"""What OBD-SD's Table 8 prints of the training images; its spectral decay leaves out the two largest singular values."""


@cache
def load_published() -> pl.DataFrame:
    """The printed numbers: the columns of the file, and five of ours.

    `key` (see the module), `variant` (tokens of `setting` that name another configuration), `resolution` (training, pixels;
    null where the paper has one), `score` (our name of the metric, as in "test_asymmetric/map"; null for gains, costs
    and what a run does not measure), and
    `uncertain` (true: do not trust the cell; `source_note` says why).
    """
    texts = ("paper", "table", "dataset", "setting", "backbone", "teacher_backbone", "base_loss", "method", "metric")
    table = pl.read_csv(FILE, schema_overrides=dict.fromkeys((*texts, "source_note"), pl.String), infer_schema_length=None)
    settings = table["setting"].to_list()
    table = table.with_columns(
        pl.col("source_note").str.contains("uncertain:").fill_null(False).alias("uncertain"),
        pl.Series("variant", [_variant(setting) for setting in settings], pl.String),
        pl.Series("resolution", [_resolution(row) for row in table.iter_rows(named=True)], pl.Int64),
        pl.Series("score", [_score(row) for row in table.iter_rows(named=True)], pl.String),
    )
    parts = [_keyed(part) for _, part in table.group_by(("paper", "table"), maintain_order=True)]
    return pl.concat(parts)


def configurations() -> pl.DataFrame:
    """One row a key, in the order of the papers: what of `load_published` describes the configuration, and `cells`."""
    about = [*_FIXED, *_TELLING, "setting"]
    firsts = [pl.col(name).first() for name in about]
    return load_published().group_by("key", maintain_order=True).agg(*firsts, pl.len().alias("cells"))


def find(paper: str = "", table: str = "", dataset: str = "", method: str = "", key: str = "") -> pl.DataFrame:
    """The rows of `load_published` that have every value given. Raises `TrackingError` with the nearest for an unknown one."""
    found = load_published()
    for column, value in {"paper": paper, "table": table, "dataset": dataset, "method": method, "key": key}.items():
        if value:
            known = found[column].unique(maintain_order=True).to_list()
            if value not in known:
                raise TrackingError(f"published {column}: no row has {value!r}{_where(found, column, value, known)}")
            found = found.filter(pl.col(column) == value)
    return found


def _where(found: pl.DataFrame, column: str, value: str, known: list[str]) -> str:
    starts = [name for name in known if name.startswith(value)]
    near = starts[:3] or difflib.get_close_matches(value, known, n=3, cutoff=0.4)
    if near:
        return f": did you mean {' or '.join(map(repr, near))}?"
    return f": known are {', '.join(map(str, known[:12]))}" + ("" if column != "key" else ", ...; dmkd published lists all")


def _keyed(part: pl.DataFrame) -> pl.DataFrame:
    """A table of a paper with its keys: of the telling columns those that tell two configurations of it apart."""
    columns = list(_FIXED)
    for name in _TELLING:
        if part.select(*columns, name).n_unique() > part.select(columns).n_unique():
            columns.append(name)
    fields = [
        pl.col(name).cast(pl.String).fill_null("-").replace("", "-").str.replace_all("|", "+", literal=True) for name in columns
    ]
    return part.with_columns(pl.concat_str(fields, separator="/").alias("key"))


def _variant(setting: str) -> str:
    tokens = [token for token in setting.split(";") if not TESTING.fullmatch(token)]
    return "+".join(SHORT.get(token) or re.sub(r"[^a-z0-9.+@=-]+", "_", token.lower()).strip("_") for token in tokens)


def _resolution(row: dict[str, object]) -> int | None:
    """Training resolution where a paper has several (RAML): as its setting says, else that of the queries."""
    if row["paper"] != "raml":
        return None
    told = re.search(r"train_resolution=(\d+)", str(row["setting"]))
    return int(told[1]) if told else int(str(row["query_resolution"]))


def _score(row: dict[str, object]) -> str | None:
    metric, tokens = str(row["metric"]), str(row["setting"]).split(";")
    if metric in _SPACE:
        return _SPACE[metric]
    name = metric if re.fullmatch(r"recall_at_\d+", metric) else _NAMES.get(metric)
    if name is None or row["table"] == "text":
        return None
    role = "test" + "_asymmetric" * ("asymmetric" in tokens)
    trained, query, gallery = _resolution(row), row["query_resolution"], row["gallery_resolution"]
    if row["method"] == "teacher" and trained and (query, gallery) != (trained, trained):
        role = f"test_q{query}_g{gallery}"
    if row["dataset"] in LANDMARKS:
        hardness = [f"_{token}" for token in tokens if token in ("medium", "hard")]
        return f"{role}/{row['dataset']}{''.join(hardness)}/{name}"
    return f"{role}/{name}"
