"""docs/performance.md is what its template says of benchmarks/results.json; no row with a goal is left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.report import PAGE, RESULTS, TEMPLATE, digits, page

ROWS: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8"))
ROW = {
    "name": "a part",
    "ours": 0.00125,
    "peer": 0.005,
    "limit": 0.001,
    "ratio": 0.25004,
    "goal": 0.25,
    "spread": [0.2, 1.31],
    "unit": "s",
    "note": "",
    "driver": 0.4,
    "ours_mb": 1234.4,
    "machine": "Abacus, 2 cores (1 threads), no GPU",
    "commit": "0123456789ab",
}


def told(template: str, **changes: object) -> str:
    return page([ROW | changes], template)


def test_the_page_is_what_the_rows_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(ROWS, TEMPLATE.read_text(encoding="utf-8"))


def test_every_row_with_a_goal_is_on_the_page() -> None:
    template = TEMPLATE.read_text(encoding="utf-8")
    measured = [row["name"] for row in ROWS if row["goal"] is not None and row["ours"] is not None]
    assert len(measured) > 30
    assert [name for name in measured if f"{{{name}|" not in template] == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (13.703, "13.7"),
        (0.10997, "0.110"),
        (415.08, "415"),
        (1234.4, "1234"),
        (0.00016, "0.000160"),
        (0.0, "0"),
        (-2.345, "-2.35"),
    ],
)
def test_three_digits(value: float, shown: str) -> None:
    assert digits(value) == shown


def test_fields() -> None:
    assert told("{a part|ours} of {|peer}, {|limit}: {|over}") == "1.25 ms of 5.00 ms, 1.00 ms: 1.25 x"
    assert told("{a part|over the limit} {a part|driver} {a part|ours_mb}") == "+25.0 % 0.400 s 1,234 MB"
    assert told("{sources}") == "1 rows on Abacus, 2 cores at 0123456"
    assert told("{a part|more}", ratio=1.092, spread=[0.94, 1.105]) == "+9.2 % (-6 to 10)"
    assert told("{a part|ours an image}", ours=0.112) == "1.00 ms"


def test_a_reached_goal_is_bold_and_a_missed_one_shows_that_it_is() -> None:
    assert told("{a part|ratio}{a part|missed}") == "0.25004 (0.200 to 1.31): missed"
    assert told("{a part|ratio}{a part|missed}", goal=0.3) == "**0.250** (0.200 to 1.31)"
    assert told("{a part|ratio}{a part|missed}", goal=None) == "0.250 (0.200 to 1.31)"


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no row 'a prat'.*did you mean 'a part'"):
        told("{a prat|ours}")
    with pytest.raises(ValueError, match=r"no field 'rato'.*did you mean 'ratio'"):
        told("{a part|rato}")
    with pytest.raises(ValueError, match="not measured: no GPU"):
        told("{a part|ours}", ours=None, note="not measured: no GPU")
