"""A worker keeps to its share of a card, at PyTorch's boundary: no GPU is needed to see what is asked for."""

from __future__ import annotations

import gc
import os
import weakref

import pytest
import torch
from ray.tune import PlacementGroupFactory

from dmkd.packing import RESERVE
from sweeps.share import by_share, card_lost, keep_to_share, no_card
from sweeps.trial import Trial


@pytest.fixture
def held(monkeypatch):
    """The shares that PyTorch was asked to hold this process to, on a machine that has a GPU."""
    asked: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # as a worker finds it where Ray gave its trial no card
    return asked


@pytest.mark.parametrize(("gpus", "trials"), [(0.5, 2), (0.3333, 3), (0.25, 4), (0.2, 5), (0.3, 3), (0.6, 1)])
def test_as_many_as_fit_leave_the_reserve(held, gpus, trials):
    keep_to_share(PlacementGroupFactory([{"CPU": 1, "GPU": gpus}]))
    assert held == [pytest.approx((1 - RESERVE) / trials)]
    assert trials * gpus <= 1 < (trials + 1) * gpus


def test_a_whole_card_or_none_has_no_limit(held, monkeypatch):
    for given in ({"CPU": 1, "GPU": 1}, {"CPU": 1}):
        keep_to_share(PlacementGroupFactory([given]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    keep_to_share(PlacementGroupFactory([{"CPU": 1, "GPU": 0.5}]))
    assert not held


@pytest.mark.parametrize(
    ("given", "cost"), [({"CPU": 1, "GPU": 0.25}, 900.0), ({"CPU": 1, "GPU": 1}, 3600.0), ({"CPU": 1}, 3600.0), (None, 3600.0)]
)
def test_gpu_seconds_are_counted_by_the_share_of_a_card(given, cost):
    logged = {"cost/gpu_seconds": 3600.0, "cost/train_seconds": 3600.0, "val/recall_at_1": 0.5}
    found = by_share(logged, PlacementGroupFactory([given]) if given else None)
    assert found == logged | {"cost/gpu_seconds": cost}
    assert by_share({"cost/train_seconds": 1.0}, PlacementGroupFactory([{"GPU": 0.5}])) == {"cost/train_seconds": 1.0}


@pytest.mark.parametrize(("given", "seen"), [({"CPU": 1}, ""), ({"CPU": 1, "GPU": 0.5}, "0,1"), ({"CPU": 1, "GPU": 1}, "0,1")])
@pytest.mark.usefixtures("held")
def test_a_trial_that_asked_for_no_card_sees_none(given, seen):
    keep_to_share(None)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1", "not a trial of Tune's"
    keep_to_share(PlacementGroupFactory([given]))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_a_card_that_torch_does_not_see_is_told(held, monkeypatch):
    given = PlacementGroupFactory([{"CPU": 1, "GPU": 0.5}])
    assert no_card(given) == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "Ray gave it 0.5 of a card, and torch sees none" in no_card(given)["dmkd.device"]
    assert no_card(PlacementGroupFactory([{"CPU": 1}])) == no_card(None) == {}


def test_what_the_trial_before_left_on_the_card_is_given_back(held, monkeypatch):
    class Network:
        """Of a trial that is over, in a cycle."""

    given_back = []
    lost = Network()
    lost.itself, left = lost, weakref.ref(lost)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(left()))
    resources = PlacementGroupFactory([{"CPU": 1, "GPU": 0.5}])
    gc.disable()
    try:
        del lost
        keep_to_share(resources)
        assert left() is not None, "no card was used, nothing to give back"
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        keep_to_share(resources)
    finally:
        gc.enable()
    assert given_back == [None]


def test_a_process_that_has_lost_its_card_takes_no_further_trial(monkeypatch):
    class Bare(Trial):
        job, shared, _trial_info = {}, None, None

        def __init__(self) -> None:
            pass

    def refused() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    assert not card_lost(), "CUDA was not used"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert not card_lost()
    monkeypatch.setattr(torch.cuda, "synchronize", refused)
    with pytest.raises(SystemExit):
        Bare().begin()


def test_a_trial_keeps_to_its_share_before_it_builds_anything(held):
    class Bare(Trial):
        trial_resources = PlacementGroupFactory([{"CPU": 1, "GPU": 0.25}])

        def __init__(self) -> None:
            pass

    with pytest.raises(AttributeError, match="shared"):
        Bare()._open({"values": {}})
    assert held == [pytest.approx((1 - RESERVE) / 4)]
