"""A run that does not fit the memory: the allocator's real error, on a real Ray."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from optuna.trial import TrialState

from dmkd import config as configs
from dmkd.config import Config
from dmkd.distill import METHODS
from dmkd.space import Choice, override
from sweeps.memory import out_of_memory, smaller
from sweeps.options import Options
from sweeps.plan import Definition, configured
from sweeps.study import open_study
from sweeps.sweep import run_sweep
from tests.sweeps.greedy import Greedy
from tracking.reading import load_runs


def test_what_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 55)
    assert out_of_memory(error.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    for words in (
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    ):
        assert out_of_memory(RuntimeError(words))
    assert not out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"))
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert not out_of_memory(ValueError("out of memory"))


def test_the_second_try_takes_a_quarter():
    sizes = {"method.batches.size": 112, "method.views.per_image": 2, "evaluation.batch_size": 64}
    config = override(Config(), sizes | {"student.frozen_batchnorm": True})
    once, twice = smaller(config), smaller(smaller(config))
    assert (once.optim.chunk, twice.optim.chunk) == (56, 14)
    assert (once.evaluation.batch_size, twice.evaluation.batch_size) == (16, 4)
    whole = override(config, {"data.transform": "max_side"})
    assert smaller(whole).optim.chunk == 0
    assert smaller(override(config, {"student.frozen_batchnorm": False})).optim.chunk == 0  # it would not be exact


@pytest.mark.usefixtures("ray_cluster")
def test_one_retry_in_smaller_chunks_then_failed_with_the_reason(
    tmp_path: Path, teacher: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "greedy", Greedy)
    base = override(teacher, {"method": Greedy(batches=teacher.method.batches), "student.frozen_batchnorm": True})
    space = {"method.always": Choice((False, True))}
    stated = Definition("greedy", base, space, references=(), points=({"method.always": True},), trials=2, seeds=1, finalists=1)
    options = Options(storage=str(tmp_path / "out"), tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", max_concurrent=1)
    (failure,) = run_sweep(configured(stated, options), options)
    assert "trial 1: RuntimeError" in failure
    assert "memory" in failure
    fits, never = open_study(tmp_path / "out" / "greedy", "greedy").trials
    assert (fits.state, never.state) == (TrialState.COMPLETE, TrialState.FAIL)
    assert "memory" in never.user_attrs["reason"]
    runs = load_runs(f"sqlite:///{tmp_path}/mlflow.db", "folder/greedy")
    run = runs.row(by_predicate=(pl.col("tags.dmkd.trial") == "0"), named=True)
    assert run["status"] == "FINISHED"
    assert "tried again in smaller chunks" in run["tags.dmkd.memory"]
    # It stays the configuration that it was: the row is not another one because the machine was small.
    assert run["params.optim.chunk"] == "0"
    kept = configs.from_yaml((Path(run["artifact_uri"].removeprefix("file://")) / "config.yaml").read_text())
    assert kept.optim.chunk == 0
