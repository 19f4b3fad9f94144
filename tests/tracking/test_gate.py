"""Promotion through the gate, from the command line, on real pictures and a real tracker."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from benchmarks.served import free_port
from dmkd.cli import main
from tests.deploy.conftest import pictures  # noqa: F401  (the fixture)
from tests.deploy.world import checkpoint, embedded, held_out, naive_recall, network
from tests.tracking.checkpoints import logged
from tracking.client import connect
from tracking.registry import journal


def run(uri: str, folder: Path, name: str) -> str:
    return logged(uri, folder, row=(name * 12)[:12], name=name)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit):
        main(list(words))
    return capsys.readouterr().err


def test_the_gate_compares_in_the_gallery_that_is_deployed(database, pictures, tmp_path, capsys):  # noqa: F811
    nets = {"a": network(0), "near": network(0, noise=0.02), "far": network(1), "wide": network(2, dim=24)}
    runs = {name: run(database, checkpoint(net, tmp_path / name, pictures), name) for name, net in nets.items()}
    files, labels = held_out(pictures)
    known = {name: embedded(net, files).numpy() for name, net in nets.items()}
    tracker = ["--tracking-uri", database, "--no-serve"]

    main(["promote", f"runs:/{runs['a']}", "--as", "m", *tracker])
    assert f"{naive_recall(known['a'], known['a'], labels):.4f} in its own gallery" in capsys.readouterr().out
    champion = naive_recall(known["a"], known["a"], labels)
    there = naive_recall(known["far"], known["a"], labels)
    assert there < champion

    said = refused(capsys, "promote", f"runs:/{runs['far']}", "--as", "m", *tracker)
    assert f"in the deployed gallery: {there:.4f}, the champion's {champion:.4f}: {100 * (there - champion):+.2f} points" in said
    assert "--reindex" in said
    assert "cannot search the deployed gallery (numbers: 24 in the queries, 16 in the gallery)" in refused(
        capsys, "promote", f"runs:/{runs['wide']}", "--as", "m", *tracker
    )
    assert [entry["version"] for entry in journal("m", uri=database)] == [1]

    near = naive_recall(known["near"], known["a"], labels)
    loses = max(0.0, champion - near)
    main(["promote", f"runs:/{runs['near']}", "--as", "m", "--tolerance", str(loses), *tracker])
    entry = journal("m", uri=database)[-1]
    own = naive_recall(known["near"], known["near"], labels)
    assert entry["gate"]["symmetric"] == pytest.approx(own)
    assert entry["gate"]["new queries, old gallery"] == pytest.approx(near)
    assert entry["gate"]["old queries, new gallery"] == pytest.approx(naive_recall(known["a"], known["near"], labels))
    assert entry["gate"]["difference"] == pytest.approx(near - champion)
    # The gallery is still the first version's: the next candidate is judged in that one.
    space = json.loads((tmp_path / "a" / "model.json").read_text())["embedding_space"]
    assert entry["gallery"]["space"] == space
    tags = connect(database).get_model_version("m", "2").tags
    assert (tags["dmkd.gallery_space"], tags["dmkd.dim"], tags["dmkd.normalisation"]) == (space, "16", "unit length")
    assert json.loads(tags["dmkd.preprocessing"])["center_crop"] == 32

    main(["promote", f"runs:/{runs['far']}", "--as", "m", "--force", "for a demonstration", *tracker])
    entry = journal("m", uri=database)[-1]
    assert (entry["forced"], entry["gate"]["passed"], entry["from"], entry["to"]) == ("for a demonstration", False, 2, 3)
    main(["rollback", "m", "--tracking-uri", database])
    assert int(connect(database).get_model_version_by_alias("m", "champion").version) == 2
    capsys.readouterr()
    main(["journal", "m", "--tracking-uri", database])
    assert capsys.readouterr().out.count("\n") == 4

    capsys.readouterr()
    main(
        [
            "evaluate",
            "--checkpoint",
            str(tmp_path / "far"),
            "--gallery",
            "models:/m@champion",
            "--json",
            "--tracking-uri",
            database,
        ]
    )
    scores = json.loads(capsys.readouterr().out)
    # In use: the second version's queries, in the first one's gallery.
    matrix = {
        ("old", "old"): ("near", "a"),
        ("old", "new"): ("near", "far"),
        ("new", "old"): ("far", "a"),
        ("new", "new"): ("far", "far"),
    }
    for (queries, gallery), (asked, shown) in matrix.items():
        wanted = naive_recall(known[asked], known[shown], labels)
        assert scores[f"test/{queries}_queries_{gallery}_gallery/recall_at_1"] == pytest.approx(wanted)
    assert scores["test/recall_at_1"] == pytest.approx(naive_recall(known["far"], known["far"], labels))


def test_a_gallery_that_is_embedded_anew_is_compared_with_the_old_one(database, pictures, tmp_path, capsys):  # noqa: F811
    files, labels = held_out(pictures)
    nets = [network(seed, dim=dim) for seed, dim in ((3, 16), (4, 16), (5, 16), (6, 12))]
    nets.sort(key=lambda net: naive_recall(*[embedded(net, files).numpy()] * 2, labels))
    runs = [run(database, checkpoint(net, tmp_path / f"{n}", pictures), f"net{n}") for n, net in enumerate(nets)]
    tracker = ["--as", "m", "--tracking-uri", database, "--no-serve"]
    main(["promote", f"runs:/{runs[0]}", *tracker])
    main(["promote", f"runs:/{runs[-1]}", "--reindex", *tracker])
    assert "each in its own gallery" in journal("m", uri=database)[-1]["gate"]["verdict"]
    assert "each in its own gallery" in refused(capsys, "promote", f"runs:/{runs[0]}", "--reindex", *tracker)
    spaces = [json.loads((tmp_path / name / "model.json").read_text())["embedding_space"] for name in ("0", "3")]
    assert [entry["gallery"]["space"] for entry in journal("m", uri=database)] == spaces
    main(["rollback", "m", "--tracking-uri", database])
    assert f"{spaces[0]}, not {spaces[1]}" in capsys.readouterr().err


def test_an_asymmetric_student_brings_its_teacher_for_the_gallery(database, pictures, tmp_path, capsys):  # noqa: F811
    teacher = checkpoint(network(1, resolution=48), tmp_path / "teacher", pictures)
    student = run(database, checkpoint(network(2), tmp_path / "student", pictures, teacher), "student")
    main(["promote", f"runs:/{student}", "--as", "m", "--tracking-uri", database, "--no-serve"])
    files, labels = held_out(pictures)
    own, wall = embedded(network(2), files).numpy(), embedded(network(1, resolution=48), files).numpy()
    there, symmetric = naive_recall(own, wall, labels), naive_recall(own, own, labels)
    assert f"{there:.4f} in its teacher's gallery, {symmetric:.4f} in its own" in capsys.readouterr().out
    main(["pull", "models:/m@champion", "--to", str(tmp_path / "out"), "--tracking-uri", database])
    told = json.loads((tmp_path / "out" / "gallery" / "model.json").read_text())
    assert told["embedding_space"] == json.loads((teacher / "model.json").read_text())["embedding_space"]
    assert (tmp_path / "out" / "gallery" / "graph.pt2").is_file()
    # The next student of the same teacher is judged in the teacher's gallery, which is there already.
    third = next(net for net in map(network, range(3, 30)) if naive_recall(embedded(net, files).numpy(), wall, labels) < there)
    worse = run(database, checkpoint(third, tmp_path / "worse", pictures, teacher), "worse")
    said = refused(capsys, "promote", f"runs:/{worse}", "--as", "m", "--tracking-uri", database, "--no-serve")
    assert "It was trained towards this very gallery" in said
    assert "train it towards that one" not in said
    (tmp_path / "teacher").rename(tmp_path / "moved")
    other = run(database, checkpoint(network(3), tmp_path / "other", pictures, tmp_path / "teacher"), "other")
    main(["promote", f"runs:/{other}", "--as", "m", "--force", "to see", "--tracking-uri", database, "--no-serve"])
    assert len({entry["gallery"]["space"] for entry in journal("m", uri=database)}) == 1
    assert "give the teacher by --gallery REF" in refused(
        capsys, "promote", f"runs:/{other}", "--as", "second", "--tracking-uri", database, "--no-serve"
    )


@pytest.mark.slow
def test_mlflow_serves_the_version(database, pictures, tmp_path):  # noqa: F811
    """Models-from-code over safetensors: no pickle in it, no path of this machine, and the network's own embeddings out."""
    run_id = run(database, checkpoint(network(), tmp_path / "a", pictures), "a")
    main(["promote", f"runs:/{run_id}", "--as", "m", "--tracking-uri", database])
    place = tmp_path / "mlartifacts" / "e" / run_id / "artifacts" / "pyfunc-m"
    kept = [path for path in place.rglob("*") if path.is_file()]
    assert not [path for path in kept if str(tmp_path).encode() in path.read_bytes()]
    assert not [path for path in kept if path.read_bytes()[:1] == b"\x80" or path.suffix == ".pkl"]
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/m@champion", "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": database, "MLFLOW_DISABLE_TELEMETRY": "true"}
    files, _ = held_out(pictures)
    body = {
        "dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(path.read_bytes()).decode()] for path in files[:3]]}
    }
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.25)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        found = json.loads(urllib.request.urlopen(request, timeout=120).read())["predictions"]
    finally:
        process.terminate()
        process.wait(30)
    np.testing.assert_allclose(np.array(found), embedded(network(), files[:3]).numpy(), atol=1e-4)
