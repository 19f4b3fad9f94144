"""Write a report: `report.html`, and every figure as SVG and PNG in `figures/`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tracking.errors import TrackingError
from tracking.places import write_text
from tracking.report.figures import Plate, draw
from tracking.report.material import Material
from tracking.report.page import drawings_of, page
from tracking.report.style import png

PAGE = "report.html"


class Written(NamedTuple):
    """Where a report is."""

    page: Path
    figures: tuple[Path, ...]


def write_report(material: Material, out: Path | str) -> Written:
    """Write it into the folder `out`, which is made; earlier files of the same names are replaced. Raises `TrackingError`."""
    out = Path(out)
    plates = draw(material)
    drawings = drawings_of(plates)
    try:
        folder = out / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        figures = [path for plate in plates for path in _files(plate, drawings[plate.name], folder)]
        write_text(out / PAGE, page(material, plates, drawings))
    except OSError as error:
        raise TrackingError(f"the report cannot be written to {out}: {error}; choose another folder with --out") from None
    return Written(out / PAGE, tuple(figures))


def _files(plate: Plate, drawing: str, folder: Path) -> list[Path]:
    write_text(folder / f"{plate.name}.svg", drawing)
    (folder / f"{plate.name}.png").write_bytes(png(plate.figure))
    return [folder / f"{plate.name}.svg", folder / f"{plate.name}.png"]
