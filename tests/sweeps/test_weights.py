"""Teachers' weights in Ray's object store: two workers share one copy of them, and go on without it where it is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import RayError

from dmkd.checkpoint import load_model, save_model
from dmkd.config import Config
from dmkd.distill.teachers import Pretrained
from dmkd.errors import CheckpointError
from dmkd.models.embedder import build_network
from dmkd.models.saved import hold_weights, read_weights
from dmkd.space import override
from sweeps.cluster import Resources, run_tuner
from sweeps.shared import Shared
from sweeps.trial import read_done
from sweeps.weights import Store, take
from tests.faults.drivers import wait_for
from tests.sweeps.conftest import TINY

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A teacher's checkpoint of more than what Ray keeps out of its store (100 kB)."""
    torch.manual_seed(0)
    save_model(build_network(replace(TINY, dim=64)), tmp_path / "teacher", resolution=32)
    return tmp_path / "teacher"


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    yield
    hold_weights({})


def settings(folder: Path) -> Config:
    return override(Config(), {"teacher.checkpoint": str(folder)})


@ray.remote(num_cpus=0.1)
class Worker:
    """What a trial does with its teacher, in a process of its own."""

    def look(self, objects: dict[str, Any], config: Config) -> dict[str, Any]:
        import os

        from sweeps.weights import take as take_here

        take_here(objects, config)
        network = Pretrained(config.teacher, torch.device("cpu")).network
        assert network is not None
        with torch.no_grad():
            embedding = network(torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)).embedding
        places = {name: value.data_ptr() for name, value in network.state_dict().items()}
        maps = Path("/proc/self/maps").read_text()
        return {"pid": os.getpid(), "embedding": embedding.tolist(), "places": places, "maps": maps}


def store_place(maps: str, address: int) -> tuple[str, int] | None:
    """The shared-memory file, and the offset in it, that an address of a process lies in."""
    for line in maps.splitlines():
        found = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) \S+ (\d+)\s+(.*)", line)
        assert found, line
        begin, end, offset = int(found[1], 16), int(found[2], 16), int(found[4], 16)
        if begin <= address < end and "s" in found[3]:
            return f"{found[5]} {found[6]}", offset + address - begin
    return None


def test_two_workers_compute_on_one_copy_and_read_no_file(folder: Path) -> None:
    before = Pretrained(settings(folder).teacher, torch.device("cpu")).network
    store = Store()
    objects = store.put([str(folder), "", str(folder)])
    assert len(objects) == 1
    (folder / "weights.safetensors").unlink()
    workers = [Worker.remote(), Worker.remote()]
    one, two = ray.get([worker.look.remote(objects, settings(folder)) for worker in workers], timeout=400)
    assert one["pid"] != two["pid"]
    with torch.no_grad():
        wanted = before(torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)).embedding
    assert one["embedding"] == two["embedding"] == wanted.tolist()
    shared = {name: store_place(one["maps"], place) for name, place in one["places"].items()}
    assert None not in {shared[name] for name, value in before.state_dict().items() if value.dim()}
    assert shared == {name: store_place(two["maps"], place) for name, place in two["places"].items()}


def lost(reference: Any) -> bool:
    try:
        ray.get(reference, timeout=5)
    except RayError:
        return True
    return False


def test_a_lost_object_is_read_from_the_file(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    @ray.remote(num_cpus=0.1)
    class Owner:
        def put(self, checkpoint: str) -> list[Any]:
            self.store = Store()
            return [self.store.put([checkpoint])]

    owner = Owner.remote()
    (objects,) = ray.get(owner.put.remote(str(folder)), timeout=400)
    ray.kill(owner)
    wait_for(lambda: lost(*objects.values()), 120)
    take(objects, settings(folder))
    assert "weights are read from the file" in caplog.text
    read = load_model(folder)[0].state_dict()
    assert all(torch.equal(read[name], value) for name, value in read_weights(folder)[1].items())


def test_another_file_is_never_answered_with_what_is_held(folder: Path) -> None:
    objects = Store().put([str(folder)])
    save_model(build_network(replace(TINY, dim=64)), folder, resolution=32)
    take(objects, settings(folder))
    found, wanted = load_model(folder)[0].state_dict(), read_weights(folder)[1]
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_damaged_checkpoint_is_not_shared_and_refused_by_the_worker(folder: Path) -> None:
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert Store().put([str(folder)]) == {}
    take({}, settings(folder))
    with pytest.raises(CheckpointError, match="truncated or altered"):
        load_model(folder)


def test_a_trial_learns_from_what_is_stored_without_the_file(folder: Path, base: Config, tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    told = override(base, {"teacher.checkpoint": str(folder), "optim.epochs": 1})
    store = Store()
    shared = Shared(
        told,
        tmp_path / "trials",
        f"sqlite:///{tmp_path}/mlflow.db",
        "e",
        "s",
        None,
        "val/recall_at_1",
        {},
        weights=store.put([str(folder)]),
    )
    (folder / "weights.safetensors").unlink()
    jobs = [{"key": "trial", "values": {}, "tags": {}}]
    assert run_tuner("weights", shared, Resources(1, 0.0, 1), 1, runs=jobs) == set()
    done = read_done(tmp_path / "trials" / "trial")
    assert done is not None
    assert (done["status"], done["reason"]) == ("finished", "")
    assert "train/relative" in done["metrics"]


def test_a_student_that_starts_from_a_stored_teacher_trains_a_copy(folder: Path) -> None:
    store = Store()
    take(store.put([str(folder)]), settings(folder))
    (folder / "weights.safetensors").unlink()
    teacher = Pretrained(settings(folder).teacher, torch.device("cpu")).network
    assert teacher is not None
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = teacher.clone(frozen_batchnorm=False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    student(torch.rand(4, 3, 32, 32)).embedding[:, 0].sum().backward()
    optimizer.step()
    assert any(not torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
