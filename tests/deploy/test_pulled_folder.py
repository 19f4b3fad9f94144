"""What `dmkd pull` leaves runs without dmkd, Ray or MLflow, and gives the embeddings and the recall of the network."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import faiss
import numpy as np
import pytest
from PIL import Image

from dmkd.cli import main
from dmkd.deployment import Wanted, real_pictures
from dmkd.models.saved import load_model
from dmkd.run import evaluate_checkpoint
from tests.deploy.world import checkpoint, embedded, held_out, naive_recall, network, run_bare

NEEDS_ONNX = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript")), reason="needs the extra `export`"
)
FORMATS = ["safetensors", "pt2", pytest.param("onnx", marks=NEEDS_ONNX)]


@pytest.fixture(scope="module")
def made(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(network(), tmp_path_factory.mktemp("made") / "student", pictures)


@pytest.fixture(scope="module")
def pulled(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("pulled") / "student"
    main(["pull", str(made), "--to", str(to)])
    return to


def awkward(folder: Path, file: Path) -> list[Path]:
    """Pictures as they come: not square, transparent, turned by EXIF, 16-bit grey, with a palette."""
    folder.mkdir()
    picture = Image.open(file).convert("RGB")
    wide = picture.resize((77, 50))
    wide.save(folder / "wide.png")
    wide.convert("RGBA").rotate(30, expand=True).save(folder / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(folder / "turned.jpg", exif=exif)
    Image.fromarray(np.asarray(wide.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    wide.convert("P").save(folder / "palette.gif")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_embed_gives_the_networks_embeddings_without_dmkd(format, made, pictures, bare, tmp_path):
    main(["pull", str(made), "--to", str(tmp_path / "out"), "--format", format])
    files, labels = held_out(pictures)
    files += awkward(tmp_path / "awkward", files[0])
    without = ("torch",) if format == "onnx" else ("onnxruntime",)
    run_bare(bare, tmp_path / "out" / "embed.py", *files, "--out", tmp_path / "found.npy", without=without)
    found = np.load(tmp_path / "found.npy")
    wanted = embedded(network(), files).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    recall = evaluate_checkpoint(made)["test/recall_at_1"]
    assert naive_recall(found[: len(labels)], found[: len(labels)], labels) == pytest.approx(recall)
    assert evaluate_checkpoint(tmp_path / "out")["test/recall_at_1"] == recall
    info = json.loads((tmp_path / "out" / "model.json").read_text())
    assert info["extra"]["parity"]["pictures"] == "real"
    assert info["embedding_space"] == json.loads((made / "model.json").read_text())["embedding_space"]


def test_search_finds_what_brute_force_finds_and_draws_it(pulled, pictures, bare, tmp_path):
    files, _ = held_out(pictures)
    out = run_bare(bare, pulled / "search.py", "index", pictures, "--to", tmp_path / "index")
    assert "96 pictures" in out
    (tmp_path / "found").mkdir()
    lines = run_bare(
        bare, pulled / "search.py", "find", *files[:3], "--index", tmp_path / "index", "--top", 4, "--out", tmp_path / "found"
    ).splitlines()
    everything = sorted(pictures.rglob("*.png"))
    whole = embedded(network(), everything).numpy()
    for number, (file, line) in enumerate(zip(files[:3], lines, strict=True), 1):
        told = json.loads(line)
        scores = whole @ whole[everything.index(file)]
        assert told["found"][0][0] == file.relative_to(pictures).as_posix()
        assert [score for _, score in told["found"]] == pytest.approx(sorted(scores, reverse=True)[:4], abs=2e-4)
        with Image.open(tmp_path / "found" / f"{number}-{file.stem}.png") as sheet:
            assert sheet.size == (160 * 5 + 12, 160)
            assert len(set(sheet.crop((172, 0, 332, 160)).getdata())) > 20  # the first answer is drawn


def test_a_broken_picture_in_the_gallery_is_left_out_and_named(pulled, pictures, bare, tmp_path):
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "good.png").write_bytes(held_out(pictures)[0][0].read_bytes())
    (tmp_path / "gallery" / "bad.png").write_bytes(b"no picture")
    run_bare(bare, pulled / "search.py", "index", tmp_path / "gallery", "--to", tmp_path / "index")
    assert json.loads((tmp_path / "index" / "gallery.json").read_text())["paths"] == ["good.png"]
    # And what is not there is one line.
    for words in (["find", tmp_path / "nowhere.png", "--index", tmp_path / "index"], ["find", pictures, "--index", pictures]):
        with pytest.raises(AssertionError, match=r"^search.py: .*No such file.*\n"):
            run_bare(bare, pulled / "search.py", *words)


def test_the_teacher_embeds_the_gallery_of_an_asymmetric_student(pictures, bare, tmp_path):
    teacher = checkpoint(network(1, resolution=48), tmp_path / "teacher", pictures)
    student = checkpoint(network(2), tmp_path / "student", pictures, teacher)
    main(["pull", str(student), "--to", str(tmp_path / "out"), "--gallery", str(teacher)])
    run_bare(bare, tmp_path / "out" / "search.py", "index", pictures, "--to", tmp_path / "index")
    index = faiss.read_index(str(tmp_path / "index" / "gallery.faiss"))
    everything = sorted(pictures.rglob("*.png"))
    assert json.loads((tmp_path / "index" / "gallery.json").read_text())["paths"] == [
        path.relative_to(pictures).as_posix() for path in everything
    ]
    np.testing.assert_allclose(
        index.reconstruct_n(0, index.ntotal), embedded(network(1, resolution=48), everything).numpy(), atol=1e-4
    )
    # The index of another space is refused: the student alone does not embed this gallery.
    main(["pull", str(student), "--to", str(tmp_path / "alone")])
    with pytest.raises(AssertionError, match="index it again"):
        run_bare(bare, tmp_path / "alone" / "search.py", "find", everything[0], "--index", tmp_path / "index")


def test_what_was_altered_after_the_pull_is_not_run(made, pictures, bare, tmp_path):
    main(["pull", str(made), "--to", str(tmp_path / "out")])
    for name in ("weights.safetensors", "graph.pt2"):
        content = bytearray((tmp_path / "out" / name).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "out" / name).write_bytes(content)
        with pytest.raises(AssertionError, match=f"{name}: damaged or altered"):
            run_bare(bare, tmp_path / "out" / "embed.py", held_out(pictures)[0][0])
        content[len(content) // 2] ^= 1
        (tmp_path / "out" / name).write_bytes(content)


SMALLER = [
    pytest.param(("safetensors", "fp16"), marks=pytest.mark.slow),
    ("safetensors", "int8"),
    pytest.param(("pt2", "int8"), marks=pytest.mark.slow),
    pytest.param(("onnx", "int8"), marks=NEEDS_ONNX),
]


@pytest.mark.parametrize("kind", SMALLER, ids=str)
def test_a_smaller_precision_comes_with_its_loss_of_recall(kind, made, pictures, bare, tmp_path):
    format, precision = kind
    main(["pull", str(made), "--to", str(tmp_path / "out"), "--format", format, "--precision", precision])
    loss = json.loads((tmp_path / "out" / "model.json").read_text())["extra"]["loss"]
    files, labels = held_out(pictures)
    run_bare(bare, tmp_path / "out" / "embed.py", *files, "--out", tmp_path / "found.npy")
    small, whole = np.load(tmp_path / "found.npy"), embedded(network(), files).numpy()
    assert loss["recall_at_1, fp32"] == pytest.approx(naive_recall(whole, whole, labels))
    assert loss[f"recall_at_1, {precision}"] == pytest.approx(naive_recall(small, small, labels))
    assert loss[f"recall_at_1, {precision} queries, fp32 gallery"] == pytest.approx(naive_recall(small, whole, labels))
    assert f"What {precision} costs" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_a_smaller_asymmetric_student_is_measured_in_its_teachers_gallery(pictures, bare, tmp_path, capsys):
    wall = network(1, resolution=48)
    teacher = checkpoint(wall, tmp_path / "teacher", pictures)
    student = checkpoint(network(2), tmp_path / "student", pictures, teacher)
    main(["pull", str(student), "--to", str(tmp_path / "out"), "--gallery", str(teacher), "--precision", "int8"])
    assert "gallery/: its teacher, which embeds the gallery (48 x 48 px)" in capsys.readouterr().out
    loss = json.loads((tmp_path / "out" / "model.json").read_text())["extra"]["loss"]
    files, labels = held_out(pictures)
    run_bare(bare, tmp_path / "out" / "embed.py", *files, "--out", tmp_path / "found.npy")
    there = embedded(wall, files).numpy()
    for name, queries in {"fp32": embedded(network(2), files).numpy(), "int8": np.load(tmp_path / "found.npy")}.items():
        assert loss[f"recall_at_1, {name} queries, teacher's gallery"] == pytest.approx(naive_recall(queries, there, labels))


def test_what_a_program_is_made_by_is_of_the_training_part(made, pictures, tmp_path):
    found, part = real_pictures(made, Wanted())
    unseen = {path.resolve() for path in held_out(pictures)[0]}
    assert part == "train"
    assert found
    assert not {path.resolve() for path in found} & unseen
    assert real_pictures(made, Wanted(pictures=pictures))[1] == "--pictures"
    assert real_pictures(made, Wanted(changes={"data.root": str(tmp_path / "nowhere")})) == ([], "")


def test_without_real_pictures_nothing_is_said_to_be_compared_on_them(made, tmp_path, capsys, pictures):
    gone = ["--set", f"data.root={tmp_path}/nowhere"]
    with pytest.raises(SystemExit):
        main(["pull", str(made), "--to", str(tmp_path / "out"), "--format", "pt2", *gone])
    assert "no real pictures to compare it on" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == []
    main(["pull", str(made), "--to", str(tmp_path / "out"), *gone])
    assert "GENERATED pictures" in capsys.readouterr().out
    main(["pull", str(made), "--to", str(tmp_path / "out"), "--format", "pt2", "--pictures", str(pictures), *gone])
    assert "on 8 real pictures" in capsys.readouterr().out


def test_the_pulled_folder_is_a_checkpoint_like_any_other(pulled, made, tmp_path, capsys):
    again, info = load_model(pulled)
    assert info["extra"]["metrics"] == {"test/recall_at_1": 0.5}
    assert all((again.state_dict()[name] == tensor).all() for name, tensor in load_model(made)[0].state_dict().items())
    with pytest.raises(SystemExit):
        main(["pull", str(pulled), "--to", str(tmp_path / "again")])
    assert "copy it as it is" in capsys.readouterr().err
    main(["pull", str(made), "--to", str(tmp_path / "bare"), "--no-program"])
    main(["pull", str(tmp_path / "bare"), "--to", str(tmp_path / "again"), "--no-program"])
    assert load_model(tmp_path / "again")[1]["embedding_space"] == info["embedding_space"]


def test_bad_requests_are_refused_before_anything_is_fetched(made, tmp_path, capsys):
    for words in (["--format", "onx"], ["--precision", "int4"]):
        with pytest.raises(SystemExit):
            main(["pull", str(made), "--to", str(tmp_path / "out"), *words])
        assert "did you mean" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == []
