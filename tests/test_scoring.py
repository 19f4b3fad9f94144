"""What a run costs on a card that is only declared."""

from __future__ import annotations

import pytest
import torch

from dmkd.scoring import forget_peak
from tests.cards import declare_card


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_run_may_be_the_first_thing_that_a_process_does_on_a_card(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    declare_card(monkeypatch)
    forget_peak(torch.device(device))


def test_a_cpu_has_no_peak_to_forget() -> None:
    forget_peak(torch.device("cpu"))
