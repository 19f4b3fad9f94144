from __future__ import annotations

from pathlib import Path

import mlflow.store.db.utils
import mlflow.store.tracking.sqlalchemy_store
import pytest

from tracking.client import connect


def test_a_process_ended_while_the_tables_are_made_leaves_no_half_made_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow makes its tables one by one; one that is there already would stop the next process for good."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"

    def ended(engine: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(mlflow.store.db.utils, "_upgrade_db", ended)
        with pytest.raises(KeyboardInterrupt):
            connect(uri)
    assert not (tmp_path / "mlflow.db").exists()
    assert [each.name for each in connect(uri).search_experiments()] == ["Default"]
