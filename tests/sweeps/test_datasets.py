"""What a trial tells the tracker of its data: the parts it sees, by the split's fingerprint. (MLflow's side: tests/tracking.)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dmkd.config import Config
from dmkd.data import Data
from dmkd.data.datasets import load_dataset
from dmkd.data.splits import split
from sweeps.naming import log_datasets
from tests.pictures import make_folder


class Told:
    """Keeps what `tracking.runs.Run.log_dataset` would be given."""

    def __init__(self) -> None:
        self.parts: dict[str, tuple[str, str, str, int, int]] = {}

    def log_dataset(self, name, digest, context, *, source, profile):
        assert context not in self.parts
        self.parts[context] = (name, digest, source, profile["pictures"], profile["classes"])


def told(config: Config) -> tuple[dict[str, tuple[str, str, str, int, int]], str]:
    kept, parts = Told(), split(load_dataset(config.data), config.data)
    log_datasets(kept, config, parts)
    return kept.parts, parts.fingerprint


def test_a_search_names_no_test_part_and_a_final_run_no_validation_part(tmp_path: Path) -> None:
    root = str(make_folder(tmp_path / "pictures", classes=12, size=32))
    base = Config(data=Data(name="folder", root=root, validation=0.5))
    searched, cut = told(base)
    # Of 12 classes of two pictures the first 6 train; half of those are validated on.
    assert searched == {
        "training": ("folder (training)", cut, root, 6, 3),
        "validation": ("folder (validation)", cut, root, 6, 3),
    }
    final = replace(base, data=replace(base.data, validation=0.0), evaluation=replace(base.evaluation, test=True))
    reported, whole = told(final)
    assert reported == {"training": ("folder (training)", whole, root, 12, 6), "test": ("folder (test)", whole, root, 12, 6)}
    assert whole != cut
