"""Real pictures, tiny networks as checkpoints of them, and a Python that has the packages of this one but not dmkd."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dmkd.checkpoint import save_model
from dmkd.config import Config, to_yaml
from dmkd.data import Data
from dmkd.evaluation import Evaluation
from dmkd.evaluation.embed import embed
from dmkd.models import Network, Teacher
from dmkd.models.embedder import EmbeddingNet, build_network

BACKBONE = "timm/test_efficientnet"
FORBIDDEN = ("dmkd", "tracking", "sweeps", "ray", "mlflow", "optuna", "timm", "torchvision", "polars")


def network(seed: int = 0, dim: int = 16, resolution: int = 32, noise: float = 0.0) -> EmbeddingNet:
    """A network of random weights, the same for a seed; `noise` moves it a little."""
    torch.manual_seed(seed)
    net = build_network(Network(BACKBONE, weights="none", dim=dim, resolution=resolution))
    with torch.no_grad():
        for weight in net.parameters() if noise else []:
            weight.add_(noise * weight.std(correction=0) * torch.randn_like(weight))
    return net.eval()


def checkpoint(net: EmbeddingNet, folder: Path, pictures: Path, teacher: Path | None = None) -> Path:
    """`net` as a run would have saved it; with `teacher` it was made to search that one's gallery."""
    config = Config(
        data=Data(name="folder", root=str(pictures), crop_ratio=1.0),
        student=net.network,
        teacher=Teacher(str(teacher or "")),
        evaluation=Evaluation(nmi=False),
    )
    extra: dict[str, Any] = {
        "crop_ratio": 1.0,
        "gallery": "teacher" if teacher else "student",
        "metrics": {"test/recall_at_1": 0.5},
    }
    save_model(net, folder, resolution=net.network.resolution, extra=extra, files={"config.yaml": to_yaml(config)})
    return folder


def held_out(pictures: Path) -> tuple[list[Path], list[str]]:
    """Files and classes of the test part: the second half of the class names."""
    folders = sorted(path for path in pictures.iterdir() if path.is_dir())
    files = [path for folder in folders[len(folders) // 2 :] for path in sorted(folder.iterdir())]
    return files, [path.parent.name for path in files]


def embedded(net: EmbeddingNet, files: list[Path]) -> torch.Tensor:
    """[N, D] by the loader's own test transform."""
    from dmkd.data.cache import open_picture
    from dmkd.data.views import centre_view, to_unit

    views = [centre_view(open_picture(path), net.network.resolution, 1.0) for path in files]
    return embed(net, torch.from_numpy(to_unit(views)).split(16), "cpu")


def naive_recall(queries: NDArray[Any], gallery: NDArray[Any], labels: list[str]) -> float:
    """Recall@1 by two loops: the nearest other picture is of the same class."""
    hits = 0
    for position, label in enumerate(labels):
        scores = [-2.0 if other == position else float(queries[position] @ gallery[other]) for other in range(len(labels))]
        hits += labels[int(np.argmax(scores))] == label
    return hits / len(labels)


def bare_python(folder: Path) -> Path:
    """A virtual environment that sees this one's packages, but neither dmkd (an editable install) nor this repository."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    # Only the .pth files of an environment's own folder are obeyed, so the editable install stays out of sight.
    (site / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin" / "python"


def run_bare(python: Path, *arguments: object, without: tuple[str, ...] = (), cwd: Path | None = None) -> str:
    """Run a script where none of `FORBIDDEN` (nor `without`) can be imported; its standard output."""
    blocked = FORBIDDEN + without
    code = f"import sys, runpy; sys.modules.update(dict.fromkeys({blocked!r})); sys.argv = sys.argv[1:]; import os\n"
    code += "sys.path.insert(0, os.path.dirname(sys.argv[0])); runpy.run_path(sys.argv[0], run_name='__main__')"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [str(python), "-W", "ignore", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
