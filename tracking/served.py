"""The same version for MLflow's own users: a pyfunc model made from code over safetensors, without a pickle or an absolute path.

`save_served` writes it; `check_served` refuses a version whose MLmodel names any loader but the one that runs our code file, or
whose code file is not ours. `pull` never loads through pyfunc; it refuses such a version because somebody else might load it.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from tracking.client import connect, translated
from tracking.errors import TrackingError
from tracking.places import local_folder

PLACE = "pyfunc"
"""Where in a run's artifacts the pyfunc model lay when a run had one name; now each name has a folder: `place_of`."""
LOADER = "mlflow.pyfunc.loaders.code_model"
HELPERS = ("code/embed.py",)
"""What the code file imports, in the pyfunc model's folder."""
NEEDED = ("mlflow", "torch", "numpy", "pillow")
"""Packages that serving needs; not dmkd."""
CODE_HASH = "dmkd.code_sha256"
"""Tag of a version: the code file that its MLmodel may run."""


CODE = Path(__file__).with_name("serve.py")
"""The code that MLflow runs; it ends with `set_model`."""
INPUT = "image"
"""The column of its input: the bytes of a picture file as base64 text."""


def save_served(deployable: Path, to: Path, *, helpers: Sequence[Path]) -> str:
    """Write the pyfunc model of a deployable folder into `to`; the SHA-256 of what it runs.

    `helpers` are what `CODE` imports, in the order of `HELPERS`. Raises `TrackingError` where what MLflow wrote holds a pickle.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema

        # MLflow warns of its own type hints, and of ours that it would rather have as its kinds; its import lets itself speak.
        warnings.simplefilter("ignore")

        mlflow.pyfunc.save_model(
            path=str(to),
            python_model=str(CODE),
            artifacts={"model": str(deployable)},
            code_paths=[str(path) for path in helpers],
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in NEEDED],
            signature=ModelSignature(Schema([ColSpec("string", INPUT)])),
        )
    _clean(to, CODE.name)
    return code_sha256([CODE, *helpers])


def place_of(name: str, source: str | None = None, root: str = "") -> str:
    """The folder, in a run's artifacts, of the pyfunc model of a name; that of an older version's `source` stays where it is.

    One run promoted under two names has two: what is promoted anew under one must not change what the other was stamped with.
    """
    return PLACE if source is not None and source == f"{root.rstrip('/')}/{PLACE}" else f"{PLACE}-{name.replace(' ', '+')}"


def code_sha256(files: Sequence[Path]) -> str:
    """Of the files that a served model runs, in order."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _clean(folder: Path, code: str) -> None:
    """Take out of MLmodel the paths of this machine, and check what is left."""
    import yaml

    path = folder / "MLmodel"
    model = yaml.safe_load(path.read_text(encoding="utf-8"))
    flavor = model["flavors"]["python_function"]
    flavor["model_code_path"] = code
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    path.write_text(yaml.safe_dump(model, sort_keys=False), encoding="utf-8")
    for pattern in ("__pycache__", "*.pkl"):
        found = list(folder.rglob(pattern))
        if pattern == "*.pkl" and found:
            raise TrackingError(f"MLflow wrote {found[0].name}, a pickle, into the served model: nothing was registered")
        for cache in found:
            shutil.rmtree(cache)
    check_mlmodel(path.read_text(encoding="utf-8"), "the served model")


def check_mlmodel(text: str, name: str) -> None:
    """Raise `TrackingError` unless an MLmodel has one flavor, ours: our loader, its code beside it, no pickle, no path out."""
    import yaml

    try:
        flavors = yaml.safe_load(text)["flavors"]
        flavor = flavors["python_function"]
        loader, code = flavor["loader_module"], flavor["model_code_path"]
        paths = [code, flavor.get("code") or "code", *(found["path"] for found in (flavor.get("artifacts") or {}).values())]
        addresses = [found["uri"] for found in (flavor.get("artifacts") or {}).values()]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise TrackingError(f"{name}: its MLmodel is not one that dmkd wrote; promote the run again") from None
    if loader != LOADER or set(flavors) != {"python_function"} or "python_model" in flavor:
        raise TrackingError(
            f"{name}: its MLmodel names the loader {loader!r} (flavors {', '.join(map(str, flavors))}), wanted {LOADER!r} alone; "
            "refused, nothing was loaded"
        )
    for path in (*paths, *addresses):
        if not isinstance(path, str) or path.startswith(("/", "\\")) or ":" in path or ".." in PurePosixPath(path).parts:
            raise TrackingError(f"{name}: its MLmodel points out of its folder, to {path!r}; refused, nothing was loaded")


def check_served(uri: str, version: Any) -> None:
    """Raise `TrackingError` for a version whose source is neither the run's checkpoint nor a pyfunc model that dmkd wrote."""
    name = f"version {version.version} of {version.name!r}"
    client = connect(uri)
    with translated(uri):
        root = str(client.get_run(version.run_id).info.artifact_uri).rstrip("/")
    if version.source == f"{root}/checkpoint":
        return
    place = place_of(version.name, version.source, root)
    if version.source != f"{root}/{place}":
        raise TrackingError(f"{name}: its source is {version.source!r}, wanted {root}/{place} or {root}/checkpoint; refused")
    with tempfile.TemporaryDirectory() as folder:
        check_mlmodel(_text(uri, version.run_id, f"{place}/MLmodel", Path(folder)), name)
        if wanted := dict(version.tags or {}).get(CODE_HASH):
            _check_code(uri, version.run_id, place, Path(folder), (str(wanted), name))


def _check_code(uri: str, run_id: str, place: str, folder: Path, told: tuple[str, str]) -> None:
    import yaml

    wanted, name = told
    flavor = yaml.safe_load(_text(uri, run_id, f"{place}/MLmodel", folder))["flavors"]["python_function"]
    code = PurePosixPath(flavor["model_code_path"]).name
    found = hashlib.sha256()
    for path in (code, *HELPERS):
        found.update(_text(uri, run_id, f"{place}/{path}", folder).encode())
    if found.hexdigest() != wanted:
        raise TrackingError(f"{name}: the code of its pyfunc model is not what was promoted; refused, nothing was loaded")


def _text(uri: str, run_id: str, path: str, folder: Path) -> str:
    client = connect(uri)
    with translated(uri):
        root = local_folder(client.get_run(run_id).info.artifact_uri)
        here = root / path if root else Path(client.download_artifacts(run_id, path, str(folder)))
    if here.is_symlink() or not here.is_file() or here.stat().st_size > 1_000_000:
        raise TrackingError(f"runs:/{run_id}/{path} is missing, a link, or too large; promote the run again")
    return here.read_text(encoding="utf-8")
