"""What a trial may ask for, from what each node of a cluster has."""

import socket

import pytest

from dmkd.errors import SweepError
from sweeps.cluster import Resources, _running_here, fitted


@pytest.mark.parametrize(
    ("nodes", "gpus", "workers", "at_once", "wanted"),
    [
        ([{"CPU": 2.0}], None, 0, None, Resources(1, 0.0, 2)),
        ([{"CPU": 8.0}], None, 3, None, Resources(4, 0.0, 2)),
        ([{"CPU": 2.0}], None, 8, None, Resources(2, 0.0, 1)),
        ([{"CPU": 2.0}], None, 0, 1, Resources(1, 0.0, 1)),
        # A head without GPU beside a worker with four: the trial has to fit the worker.
        ([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 4.0}], None, 0, None, Resources(2, 1.0, 4)),
        ([{"CPU": 16.0, "GPU": 2.0}], 0.5, 0, None, Resources(4, 0.5, 4)),
        ([{"CPU": 16.0, "GPU": 2.0}], 0.6, 0, None, Resources(8, 0.6, 2)),
        ([{"CPU": 2.0, "GPU": 4.0}], 1.0, 0, None, Resources(1, 1.0, 2)),
        ([{"CPU": 8.0, "GPU": 1.0}], 0.0, 0, None, Resources(1, 0.0, 8)),
    ],
)
def test_a_trial_fits_a_node(nodes, gpus, workers, at_once, wanted):
    assert fitted(nodes, gpus, workers, at_once) == wanted


@pytest.mark.parametrize(
    ("nodes", "gpus"), [([{"CPU": 2.0}], 1.0), ([{"CPU": 8.0, "GPU": 0.5}], 1.0), ([{"CPU": 0.0, "GPU": 1.0}], 1.0)]
)
def test_what_fits_no_node_is_refused(nodes, gpus):
    with pytest.raises(SweepError, match="--gpus-per-trial 1"):
        fitted(nodes, gpus, 0, None)


def test_a_cluster_that_is_gone_is_not_waited_for(monkeypatch, tmp_path):
    """Ray notes the cluster that was started here last, and would wait minutes for one whose head was killed."""
    note = tmp_path / "ray_current_cluster"
    monkeypatch.setattr("ray._common.utils.get_ray_address_file", lambda folder: str(note))
    assert _running_here() == ""
    with socket.create_server(("127.0.0.1", 0)) as head:
        note.write_text(f"127.0.0.1:{head.getsockname()[1]}\n")
        assert _running_here() == note.read_text().strip()
    assert _running_here() == ""
