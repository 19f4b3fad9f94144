"""The landmark tests from files to numbers, against a plain loop over pictures, scales, queries and ranks."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace

import naive_retrieval as naive
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from dmkd.data import Data
from dmkd.errors import DataError
from dmkd.evaluation import Evaluation
from dmkd.evaluation.landmarks import LandmarkTests, landmark_evaluation
from dmkd.evaluation.measure import Side
from dmkd.models import Network
from dmkd.models.embedder import build_network
from tests.landmarks import make_landmark_test, make_sfm120k

CPU = torch.device("cpu")
SCALES = (1.0, 0.5**0.5, 0.5)
MODES = {"easy": (("easy",), ("junk", "hard")), "medium": (("easy", "hard"), ("junk",)), "hard": (("hard",), ("junk", "easy"))}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("landmarks")
    make_landmark_test(folder / "roxford5k", "roxford5k")
    make_landmark_test(folder / "oxford5k", "oxford5k")
    make_sfm120k(folder / "sfm120k")
    return folder


def made(root, dim, projection, seed):
    """A network whose batch-norm has seen the pictures, so that its vectors of them differ."""
    torch.manual_seed(seed)
    tiny = Network(
        "timm/test_efficientnet",
        weights="none",
        dim=dim,
        pooling="gem",
        projection=projection,
        resolution=64,
        frozen_batchnorm=False,
    )
    network = build_network(tiny).train()
    seen = [opened(file).resize((64, 64)) for file in sorted((root / "roxford5k" / "jpg").iterdir())]
    images = torch.stack([torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255 for picture in seen])
    with torch.no_grad():
        for _ in range(10):
            network(images)
    return network.eval()


@pytest.fixture(scope="module")
def networks(root):
    """A student and a teacher of one space, whose embedding is what GeM gives."""
    student, teacher = (made(root, 16, "conv", seed) for seed in (3, 4))
    with torch.no_grad():
        teacher.head.pool.p.fill_(2.0)
    return student, teacher


def describe(network, picture, box=None):
    """One picture, by the papers' words; 72 pixels at most."""
    full = max(picture.size)
    limit = 72.0
    if box is not None:
        picture = picture.crop(box)
        limit = 72 * max(picture.size) / full
    picture.thumbnail((limit, limit), Image.Resampling.LANCZOS, reducing_gap=None)
    image = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 255
    power = network.head.pool.p.item() if isinstance(network.head.linear, torch.nn.Identity) else 1
    with torch.no_grad():
        scaled = [F.interpolate(image, scale_factor=s, mode="bilinear", align_corners=False) if s != 1 else image for s in SCALES]
        vector = (sum(network(x).embedding[0] ** power for x in scaled) / 3) ** (1 / power)
    return (vector / vector.norm()).numpy().astype(np.float64)


def opened(file):
    with Image.open(file) as picture:
        return picture.convert("RGB")


def naive_whitening(network, sfm):
    """Mean and projection by an SVD of the differences' Cholesky factor's inverse, as defined."""
    listed = pickle.loads((sfm / "retrieval-SfM-120k-whiten.pkl").read_bytes())
    x = np.stack([describe(network, opened(sfm / "ims" / c[-2:] / c[-4:-2] / c[-6:-4] / c)) for c in listed["cids"]])
    queries, positives = x[listed["qidxs"]], x[listed["pidxs"]]
    mean = queries.mean(axis=0)
    covariance = (queries - positives).T @ (queries - positives) / len(queries)
    inverse = np.linalg.inv(np.linalg.cholesky(covariance))
    rotation = np.linalg.svd((x - mean) @ inverse.T, full_matrices=False)[2]
    return mean, rotation @ inverse


def naive_scores(name, root, student, gallery, whitening=None):
    """{"roxford5k_easy/map": ..., ...} of student queries against a gallery's database."""
    folder = root / name
    content = pickle.loads((folder / f"gnd_{name}.pkl").read_bytes())
    database = [describe(gallery, opened(folder / "jpg" / f"{image}.jpg")) for image in content["imlist"]]
    files = [folder / "jpg" / f"{query}.jpg" for query in content["qimlist"]]
    queries = [describe(student, opened(file), row["bbx"]) for file, row in zip(files, content["gnd"], strict=True)]
    if whitening is not None:
        mean, projection = whitening
        database, queries = (
            [(v := projection @ (x - mean)) / (np.linalg.norm(v) + 1e-6) for x in side] for side in (database, queries)
        )
    modes = {f"_{mode}": lists for mode, lists in MODES.items()} if name.startswith("r") else {"": (("ok",), ("junk",))}
    scores = {}
    for mode, (good, junk) in modes.items():
        places = []
        for query, row in zip(queries, content["gnd"], strict=True):
            wanted, out = ({g for key in keys for g in row[key]} for keys in (good, junk))
            similarity = [float(query @ other) for other in database]
            flags = [[g in some for g in range(len(database))] for some in (wanted, out)]
            places += [found] if (found := naive.ranks(similarity, *flags)) else []
        scores[f"{name}{mode}/map"] = np.mean([naive.trapezoidal_ap(found) for found in places])
        for k in (1, 5, 10):
            scores[f"{name}{mode}/mp_at_{k}"] = np.mean([naive.precision_at(found, k) for found in places])
    return scores


def evaluation(root, **changes):
    own = {"landmarks": ("roxford5k", "oxford5k"), "landmark_root": str(root), "max_side": 72, "batch_size": 1}
    return Evaluation(**{**own, **changes})


def test_symmetric_and_asymmetric_scores_are_those_of_a_plain_loop(root, networks):
    student, teacher = networks
    tests = LandmarkTests(Data(), evaluation(root, batch_size=4), CPU)
    own, other = Side(student, 72), Side(teacher, 72, "teacher")
    for role, database in {"test": own, "test_asymmetric": other}.items():
        metrics, outcomes = tests.measure(role, own, database)
        wanted = {}
        for name in ("roxford5k", "oxford5k"):
            wanted |= {f"{role}/{key}": value for key, value in naive_scores(name, root, student, database.network).items()}
        assert metrics == pytest.approx(wanted, abs=1e-9)
        assert list(outcomes) == [f"{role}_roxford5k_{mode}" for mode in MODES] + [f"{role}_oxford5k"]
        medium = outcomes[f"{role}_roxford5k_medium"]
        assert medium.query.tolist() == list(range(7))  # the last query has no positive
        assert medium.label[2] == "some_place1"
        assert medium.ap.mean() == pytest.approx(metrics[f"{role}/roxford5k_medium/map"])
    assert len({round(value, 6) for key, value in metrics.items() if key.endswith("map")}) > 2


@pytest.mark.parametrize("asymmetric", [False, True])
def test_whitening_is_learned_where_the_database_is_embedded_and_applied_to_both_sides(root, asymmetric):
    student, teacher = (made(root, 4, "linear", seed) for seed in (5, 6))
    gallery = teacher if asymmetric else student
    asked = evaluation(root, landmarks=("roxford5k",), whitening="pairs", whitening_root=str(root / "sfm120k"))
    got, _ = LandmarkTests(Data(), asked, CPU).measure("test", Side(student, 72), Side(gallery, 72))
    wanted = naive_scores("roxford5k", root, student, gallery, naive_whitening(gallery, root / "sfm120k"))
    assert got == pytest.approx({f"test/{key}": value for key, value in wanted.items()}, abs=1e-6)


def test_fewer_pairs_are_spread_evenly_and_need_their_pictures_alone(root, networks):
    asked = evaluation(root, whitening="pairs", whitening_pairs=3)
    tests = LandmarkTests(Data(name="sfm120k", root=str(root / "sfm120k")), asked, CPU)
    pictures, pairs = tests._pairs
    listed = pickle.loads((root / "sfm120k" / "retrieval-SfM-120k-whiten.pkl").read_bytes())
    wanted = [(listed["cids"][listed["qidxs"][n]], listed["cids"][listed["pidxs"][n]]) for n in (0, 6, 11)]
    names = [path.rpartition("/")[2] for path in pictures.paths]
    assert [(names[q], names[p]) for q, p in pairs] == wanted
    assert len(pictures) == len({name for pair in wanted for name in pair})


def test_what_is_missing_is_named_before_anything_is_embedded(root, tmp_path, monkeypatch):
    monkeypatch.delenv("DMKD_DATA", raising=False)
    with pytest.raises(DataError, match=r"looked for .*rparis6k/gnd_rparis6k.pkl"):
        LandmarkTests(Data(), evaluation(root, landmarks=("rparis6k",)), CPU)
    with pytest.raises(DataError, match=r"rparis6k: data.root is empty"):
        LandmarkTests(Data(), evaluation("", landmarks=("rparis6k",)), CPU)
    with pytest.raises(DataError, match=r"sfm120k: data.root is empty"):
        LandmarkTests(Data(), evaluation(root, whitening="pairs"), CPU)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "roxford5k").symlink_to(root / "roxford5k")
    monkeypatch.setenv("DMKD_DATA", str(root))
    assert LandmarkTests(Data(), evaluation(tmp_path, landmarks=("roxford5k",)), CPU)
    assert LandmarkTests(Data(), evaluation("", whitening="pairs"), CPU)


def test_a_broken_picture_of_the_database_is_junk_and_counted(root, networks, tmp_path):
    """The numbers are those of lists that name it as junk."""
    folder = tmp_path / "roxford5k"
    make_landmark_test(folder, "roxford5k")
    side, names = Side(networks[0], 72), evaluation(tmp_path, landmarks=("roxford5k",))
    content = pickle.loads((folder / "gnd_roxford5k.pkl").read_bytes())
    place = content["imlist"].index("some_place1_000002")
    (folder / "jpg" / "some_place1_000002.jpg").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="left out of this run: .*some_place1_000002"):
        found, outcomes = LandmarkTests(Data(), names, CPU).measure("test", side, side)
    assert found.pop("test/roxford5k/skipped") == 1
    for lists in content["gnd"]:
        for name in ("easy", "hard", "junk"):
            lists[name] = [one for one in lists[name] if one != place] + ([place] if name == "junk" else [])
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content))
    shutil.copy(root / "roxford5k" / "jpg" / "some_place1_000002.jpg", folder / "jpg")
    assert LandmarkTests(Data(), names, CPU).measure("test", side, side)[0] == pytest.approx(found)
    assert outcomes


def test_two_networks_of_different_spaces_are_refused(root, networks):
    torch.manual_seed(0)
    wide = build_network(Network("timm/test_efficientnet", weights="none", dim=8, pooling="gem", resolution=64)).eval()
    with pytest.raises(DataError, match="16 dimensions, the database 8"):
        LandmarkTests(Data(), evaluation(root), CPU).measure("test", Side(networks[0], 72), Side(wide, 72))


def test_what_numbers_depend_on_is_in_the_protocol(root):
    plain = evaluation(root)
    changed = [
        replace(plain, scales=(1.0,)),
        replace(plain, max_side=512),
        replace(plain, whitening="pairs"),
        replace(plain, whitening="pairs", whitening_pairs=9),
        replace(plain, landmarks=("roxford5k",)),
        plain,
    ]
    assert len({one.landmark_protocol for one in changed}) == len(changed)
    assert replace(plain, landmark_root="elsewhere", whitening_pairs=9).landmark_protocol == plain.landmark_protocol
    assert Evaluation(scales=(1.0,)).landmark_protocol == ""
    own = landmark_evaluation(Data(name="oxford5k", root=str(root / "oxford5k")), Evaluation())
    assert (own.landmarks, own.landmark_root) == (("oxford5k",), str(root / "oxford5k"))
    assert landmark_evaluation(Data(), plain) is plain
