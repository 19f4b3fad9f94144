"""Nodes that take no trial: what is noted, asked for and forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import ray

from dmkd.config import Config
from dmkd.data.datasets import load_dataset
from sweeps import unfit
from sweeps.shared import Shared
from sweeps.unfit import LABEL, Request, elsewhere, forget, known, left, wrong_node


def test_a_trial_asks_for_any_node_but_those_that_are_known(tmp_path: Path) -> None:
    request = Request(2, 0.5, tmp_path)
    assert request({}).required_resources == {"CPU": 2.0, "GPU": 0.5}
    assert "bundle_label_selector" not in request({})._kwargs
    (tmp_path / "unfit").mkdir()
    for node in ("b1", "a2"):
        (tmp_path / "unfit" / f"{node}.json").write_text(json.dumps({"reason": f"{node}: others"}))
        (tmp_path / "unfit" / f"{node}.trial-0001.left").write_text("")
    assert request({})._kwargs == {"bundle_label_selector": [{LABEL: "!in(a2,b1)"}]}
    assert known(tmp_path) == {"a2": "a2: others", "b1": "b1: others"}
    assert left(tmp_path, "trial-0000") == set()
    assert left(tmp_path, "trial-0001") == {"a2", "b1"}
    assert left(tmp_path, "trial-0001") == set(), "each is told once"
    forget(tmp_path)
    assert known(tmp_path) == {}


def test_where_no_other_node_could_take_it_a_trial_fails_as_it_must(
    ray_cluster: None, tmp_path: Path, teacher: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ray.get_runtime_context().get_node_id()
    shared = Shared(teacher, tmp_path / "trials", "", "e", "s", None, "val/recall_at_1", {})
    right, wrong = ({"key": "t", "values": {}, "tags": {"dmkd.data_fingerprint": mark}}
                    for mark in (load_dataset(teacher.data).fingerprint, "0123456789abcdef"))  # fmt: skip
    resources = Request(1, 0.0, tmp_path)({})
    assert not elsewhere(tmp_path, {"CPU": 1.0})
    assert not wrong_node(shared, wrong, resources)
    assert known(tmp_path) == {}
    another = [*ray.nodes(), {"Alive": True, "NodeID": "another", "Resources": {"CPU": 1.0}}]
    monkeypatch.setattr(unfit.ray, "nodes", lambda: another)
    assert not wrong_node(shared, right, resources)
    assert not wrong_node(shared, wrong, Request(2, 0.0, tmp_path)({})), "the other node has one CPU"
    assert wrong_node(shared, wrong, resources)
    assert "other pictures" in known(tmp_path)[here]
    assert left(tmp_path, "t") == {here}
