"""Lines from answers: what `test_doctor.py` cannot break on a machine without a GPU, and what can be known without Ray."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeps.checks import gpu
from sweeps.checks.diagnosis import clocks, code, gpus, node_lines, versions
from sweeps.checks.doctor import several
from sweeps.checks.gpu import Gpus, find_gpus
from sweeps.checks.node import Report
from sweeps.checks.survey import Answer
from sweeps.checks.upload import LIMIT, upload_line, upload_sizes

CARD = "NVIDIA H100 (sm_90)"


def answer(node: str, *, gpus: float = 0.0, ahead: float = 0.0, doubt: float = 0.01, **changes: Any) -> Answer:
    plain = Report(host=node, boot="b", python="3.12.1", versions={"torch": "2.14.1", "ray": "2.60.0", "mlflow": "3.17.2"},
                   code="abc", data={}, tracker="", storage="", gpus=None)  # fmt: skip
    return Answer(node, gpus, Report(**{**plain, **changes}), ahead=ahead, doubt=doubt)


def seen(cards: tuple[str, ...] = (CARD,), **changes: Any) -> Gpus:
    return Gpus(**{"cards": list(cards), "built_for": ["sm_80", "sm_90"], "torch": "", "faiss": "", **changes})


@pytest.mark.parametrize(
    ("told", "found", "says"),
    [
        (1.0, seen(), None),
        (0.0, seen(()), None),
        (2.0, seen(), "two: Ray was told of 2 GPUs, torch sees 1 (NVIDIA H100 (sm_90))"),
        (0.0, seen(), "two: torch sees NVIDIA H100 (sm_90), Ray was told of 0 GPUs: start Ray there with --num-gpus 1"),
        (
            1.0,
            seen(("Old (sm_60)",), torch="no kernel image"),
            "two: torch cannot compute on Old (sm_60); it was built for sm_80 sm_90",
        ),
        (
            1.0,
            seen(faiss="no kernel image"),
            "two: faiss cannot search on NVIDIA H100 (sm_90) (no kernel image): install a faiss-gpu",
        ),
        (1.0, seen((), torch="the GPU did not answer for 120 s"), "two: the GPU did not answer for 120 s: look at nvidia-smi"),
    ],
)
def test_gpu_lines(told: float, found: Gpus, says: str | None) -> None:
    lines = gpus([_with(answer("one", gpus=1.0), seen()), _with(answer("two", gpus=told), found)])
    if says is None:
        assert [line.ok for line in lines] == [True]
    else:
        assert [line.ok for line in lines] == [False]
        assert lines[0].text.startswith(says)


def _with(one: Answer, found: Gpus) -> Answer:
    assert one.report is not None
    return replace(one, report=Report(**{**one.report, "gpus": found}))


def test_a_library_that_ends_its_process_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are stand-ins: a torch whose card has no kernels, and a torch that kills the process."""
    (tmp_path / "torch.py").write_text(
        "class cuda:\n"
        "    is_available = staticmethod(lambda: True)\n"
        "    device_count = staticmethod(lambda: 1)\n"
        "    get_device_capability = staticmethod(lambda number: (12, 1))\n"
        "    get_device_name = staticmethod(lambda number: 'Newest')\n"
        "    get_arch_list = staticmethod(lambda: ['sm_80', 'sm_90'])\n"
        "def ones(*size, device):\n"
        "    raise RuntimeError('no kernel image is available for execution on the device')\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{gpu.ROOT}")
    found = find_gpus()
    assert found["cards"] == ["Newest (sm_121)"]
    line = gpus([_with(answer("one", gpus=1.0), found)])[0]
    assert "torch cannot compute on Newest (sm_121); it was built for sm_80 sm_90 (no kernel image is available" in line.text
    (tmp_path / "torch.py").write_text("import os; os.abort()")
    assert find_gpus()["torch"] == "the look at the GPU ended with status -6"


def test_a_card_that_torch_cannot_start_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old driver, say: torch then says that there is no card, and why only where it is asked to begin."""

    def old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040).")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", old)
    assert gpu.look(tmp_path / "nothing")["torch"] == ""
    found = gpu.look(tmp_path)
    assert found["cards"] == []
    line = gpus([_with(answer("one", gpus=1.0), found)])[0]
    assert "The NVIDIA driver on your system is too old (found version 12040).: look at nvidia-smi there" in line.text


def test_a_look_that_cannot_begin_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "nothing"))
    assert "could not begin (" in find_gpus()["torch"]


def test_versions_and_code_name_the_odd_node() -> None:
    heard = {name: answer(name).report for name in ("a", "b", "c")}
    other = answer("c", python="3.11.9", versions={"torch": "2.11.0", "ray": "2.60.0", "mlflow": "3.17.2"}, code="xyz").report
    assert [line.ok for line in [*versions(heard), *code(heard)]] == [True, True]  # type: ignore[arg-type]
    lines = [*versions(heard | {"c": other}), *code(heard | {"c": other})]  # type: ignore[arg-type]
    assert [line.ok for line in lines] == [False] * 3
    assert [line.text.split(":")[0] for line in lines] == [
        "python is 3.11.9 on c, 3.12.1 elsewhere",
        "torch is 2.11.0 on c, 2.14.1 elsewhere",
        "c has other source files of dmkd",
    ]


@pytest.mark.parametrize(("ahead", "doubt", "ok"), [(1.9, 0.0, True), (-3.0, 0.1, False), (10.0, 0.1, False), (10.0, 9.0, True)])
def test_a_clock_is_wrong_only_beyond_doubt(ahead: float, doubt: float, ok: bool) -> None:
    line = clocks([answer("a"), answer("b", ahead=ahead, doubt=doubt)])
    assert line.ok == ok
    assert ok or ("b is" in line.text and ("ahead of" if ahead > 0 else "behind") in line.text)


def test_a_silent_node_is_named() -> None:
    lines = node_lines([answer("a"), Answer("b", 0.0, reason="its Python cannot import sweeps: start Ray there ...")], "", "")
    assert (lines[0].what, lines[0].ok) == ("nodes", False)
    assert lines[0].text.startswith("b: its Python cannot import sweeps")


def test_sqlite_is_for_one_node() -> None:
    assert several(1, "sqlite:////x.db") == []
    assert several(3, "http://host:5000") == []
    assert "cannot be shared by several nodes" in several(2, "sqlite:////x.db")[0].text


def test_a_working_folder_that_is_too_large_says_where(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("ignored/\n")
    for name in ("ignored", ".git", "src", "big"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x")
    assert {path.relative_to(tmp_path).as_posix() for path in upload_sizes(tmp_path)} == {".gitignore", "src/file", "big/file"}
    assert upload_line(tmp_path).ok
    for name in ("ignored", "big"):
        with (tmp_path / name / "file").open("ab") as file:
            file.truncate(LIMIT + 1)
    line = upload_line(tmp_path)
    assert not line.ok
    assert "name big (512 MiB)" in line.text
    assert ".rayignore" in line.text
