"""What is refused on a cluster of several nodes, and with which reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmkd.errors import SweepError
from sweeps.checks import nodes
from sweeps.checks.nodes import check_nodes, check_places, faults, file_system
from sweeps.checks.survey import Answer
from sweeps.places import Places
from tests.sweeps.checks.test_diagnosis import answer

MOUNTS = """overlay / overlay rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
server:/export /shared nfs4 rw,vers=4.2 0 0
/dev/sdb1 /shared/scratch ext4 rw 0 0
server:/two\\040words /with\\040blank nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/me", "overlay"),
        ("/shared/dmkd", "nfs4"),
        ("/sharedfolder", "overlay"),
        ("/shared/scratch/x", "ext4"),
        ("/dev/shm", "tmpfs"),
        ("/with blank/x", "nfs"),
    ],
)
def test_the_file_system_of_a_folder(tmp_path: Path, folder: str, kind: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert file_system(Path(folder), str(tmp_path / "mounts")) == kind
    assert file_system(Path(folder), str(tmp_path / "none")) == ""


def test_sqlite_and_a_local_disk_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "file_system", lambda folder: "ext4" if "local" in str(folder) else "nfs4")
    with pytest.raises(SweepError, match=r"for 3 nodes: a sqlite file cannot be shared by several nodes .* --tracking-uri http"):
        check_places(Places(Path("/shared/x"), "sqlite:////shared/mlflow.db"), 3)
    with pytest.raises(
        SweepError, match=r"--storage /local lies on a disk of this machine \(ext4\), but the cluster has 2 nodes"
    ):
        check_places(Places(Path("/local/x"), "http://tracker:5000"), 2)
    check_places(Places(Path("/shared/x"), "http://tracker:5000"), 2)


def test_only_a_cluster_of_several_nodes_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fake(what: Any) -> list[Answer]:
        asked.append(what)
        return [answer("a"), answer("b", storage="it is another folder there, or none: what the driver writes is not seen")]

    monkeypatch.setattr(nodes, "survey", fake)
    monkeypatch.setattr(nodes, "live_nodes", lambda: [{}])
    check_nodes(Places(Path("/local/x"), "sqlite:////x.db"), {})
    assert asked == []
    monkeypatch.setattr(nodes, "live_nodes", lambda: [{}, {}])
    with pytest.raises(SweepError, match="sqlite"):
        check_nodes(Places(Path("/local/x"), "sqlite:////x.db"), {})
    monkeypatch.setenv("DMKD_ONE_MACHINE", "1")
    with pytest.raises(SweepError, match="--storage from node b: it is another folder there"):
        check_nodes(Places(Path("/local/x"), "sqlite:////x.db"), {})
    assert asked


def test_every_fault_is_a_sentence_that_names_the_node() -> None:
    found = faults(
        [
            answer("a", data={"cars196": ("abc", "")}),
            answer("b", data={"cars196": ("xyz", "")}, tracker="it does not answer"),
            answer("c", data={"cars196": ("", "no such folder")}),
            Answer("d", 0.0, reason="it did not answer within 180 s"),
        ],
        {"cars196": "abc"},
    )
    assert found == [
        "node d: it did not answer within 180 s",
        "--tracking-uri from node b: it does not answer",
        "data set cars196 on node b has other pictures (fingerprint xyz, here abc): copy it again there",
        "data set cars196 on node c: no such folder",
    ]
