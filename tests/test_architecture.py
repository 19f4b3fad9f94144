"""Imports point one way: the rooms of docs/architecture.md, read from the source without running it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = [
    "space",
    "data",
    "models",
    "losses",
    "mining",
    "optim",
    "evaluation",
    "distill",
    "config",
    "context",
    "assembly",
    "grad_cache",
    "scoring",
    "trainer",
    "run",
    "compatibility",
    "deployment",
    "handbook",
    "catalog",
    "import_teacher",
]
"""From left to right: a room may import what stands left of it. `data` .. `optim` stand side by side."""
SIDE_BY_SIDE = {"data", "models", "losses", "mining", "optim"}
ANYWHERE = {"caches", "errors", "heap", "pulse", "ranges", "reproducible", "terms"}
"""Leaves that any room may use: they import no room."""
ALLOWED = {
    ("losses", "mining"),
    ("checkpoint", "models"),
    ("latency", "export"),
    ("export", "models"),
    ("export", "checkpoint"),
    ("deployment", "export"),
    ("deployment", "checkpoint"),
    ("compatibility", "checkpoint"),
    ("distill", "checkpoint"),
}
"""Arrows that the list above does not give: a loss names its sampler; checkpoints hold networks; teachers are checkpoints."""
OPEN = {"cli", "commands", "__main__", "__init__"}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Modules that a file imports, with the line; imports for the type checker alone do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def room(path: Path) -> str:
    part = path.relative_to(ROOT / "dmkd").parts[0]
    return part.removesuffix(".py")


def may_import(source: str, target: str) -> bool:
    if source == target or target in ANYWHERE or (source, target) in ALLOWED or source in OPEN:
        return True
    if source not in ROOMS or target not in ROOMS:
        return source in {"trainer", "run"} and target in {"checkpoint", "export"}
    if target in SIDE_BY_SIDE and source in SIDE_BY_SIDE:
        return False
    return ROOMS.index(target) < ROOMS.index(source)


@pytest.mark.parametrize("path", files("dmkd"), ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_what_stands_left_of_them(path: Path) -> None:
    own = room(path)
    for module, line in imports(path):
        parts = module.split(".")
        if parts[0] == "dmkd" and len(parts) > 1:
            assert may_import(own, parts[1]) or not (ROOT / "dmkd" / parts[1]).with_suffix("").exists(), f"{path}:{line} {module}"
        if own not in {"cli", "commands", "__main__"}:
            assert parts[0] not in {"ray", "mlflow", "optuna", "tracking", "sweeps"}, f"{path}:{line} imports {module}"


def test_tracking_knows_nothing_of_dmkd_and_sweeps_nothing_beyond_the_two() -> None:
    for path in files("tracking"):
        assert not [
            module for module, _ in imports(path) if module.split(".")[0] in {"dmkd", "sweeps", "ray", "torch", "optuna"}
        ], path
    for path in files("sweeps"):
        assert "mlflow" not in {module.split(".")[0] for module, _ in imports(path)}, path


@pytest.mark.parametrize("arguments", [["--help"], ["leaderboard", "--help"]])
def test_the_command_line_starts_without_the_heavy_packages(arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['dmkd', *sys.argv[1:]]\n"
        "from dmkd.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'faiss', 'timm'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "HEAVY []" in done.stdout


def test_dmkd_imports_without_ray_and_mlflow() -> None:
    code = (
        "import sys\n"
        "for name in ('ray', 'mlflow', 'optuna', 'tracking', 'sweeps'): sys.modules[name] = None\n"
        "import dmkd.trainer, dmkd.config, dmkd.checkpoint, dmkd.distill, dmkd.evaluation.measure\n"
        "print('imported')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "imported"


def test_a_published_row_is_named_without_ray_mlflow_and_optuna() -> None:
    code = (
        "import sys\n"
        "for name in ('ray', 'mlflow', 'optuna'): sys.modules[name] = None\n"
        "from dmkd.commands.train import published_config\n"
        "from dmkd.cli import main\n"
        "main(['published', 'obdsd/T8/cub200/none/ms/128'])\n"
        "print(published_config('obdsd/T8/cub200/none/ms/128', {})[0].evaluation.train)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "True"
