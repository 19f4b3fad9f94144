"""Opening pictures, whatever their mode or state, and keeping decoded ones: a small set in memory, a large one on the disk."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from dmkd.data.decoded import DecodedPictures, Pixels, decoded_folder, decoded_limit, picture_key
from dmkd.errors import DataError

LIMIT_MB = "DMKD_PICTURE_CACHE_MB"
"""Environment variable: megabytes of decoded pictures that a process keeps (default 512; 0: none)."""
SHARE = "DMKD_SHARE_PICTURES"
"""Environment variable, 1: other processes of this machine read the same pictures, so that a small set too goes to the disk."""


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """A decoded RGB picture: upright (EXIF), transparency on white, 16-bit grey scaled to 8, the first frame of an animation.

    Raises `DataError` naming the file: missing, empty, not a picture, truncated, or of more pixels than Pillow's
    `Image.MAX_IMAGE_PIXELS` (89 million), as a decompression bomb has.
    """
    try:
        with Image.open(path) as picture:
            _check_size(picture)
            picture.load()
            return _rgb(ImageOps.exif_transpose(picture))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders meet damaged bytes with errors of a dozen classes
        raise DataError(f"{os.fspath(path)}: {_reason(path, error)}; mend, replace or remove it") from None


def header_fault(path: str | os.PathLike[str]) -> str:
    """Why a picture cannot be read, as `open_picture` says it, by its header alone; empty where that is in order."""
    try:
        with Image.open(path) as picture:
            _check_size(picture)
        return ""
    except Exception as error:
        return f"{os.fspath(path)}: {_reason(path, error)}; mend, replace or remove it"


def decoded_sides(path: str | os.PathLike[str], short_side: int = 0) -> tuple[int, int]:
    """The sides of a picture reduced to `short_side` (0: as it is), by its header alone, so not yet turned upright; twice 0 where
    the header is not in order."""
    try:
        with Image.open(path) as picture:
            _check_size(picture)
            return reduced_sides(picture.size, short_side)
    except Exception:  # what is wrong is told by whoever reads the picture
        return 0, 0


def _check_size(picture: Image.Image) -> None:
    # Pillow itself only warns below twice the limit.
    if picture.width * picture.height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise Image.DecompressionBombError


def _reason(path: str | os.PathLike[str], error: Exception) -> str:
    if not os.path.isfile(path):
        return "no such picture"
    if os.path.getsize(path) == 0:
        return "the picture is empty (0 bytes)"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"gigantic: more than {Image.MAX_IMAGE_PIXELS} pixels, as a decompression bomb has"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that can be read"
    return f"broken picture ({' '.join(str(error).split()) or type(error).__name__})"


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture.copy()
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255; 65535 is white.
        grey = np.clip(np.asarray(picture).astype(np.float64) / 257, 0, 255)
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("32-bit floating point has no agreed white; save it with 8 or 16 bits")
    if picture.has_transparency_data:
        return _on_white(picture.convert("RGBA"))
    return picture.convert("RGB")


def _on_white(picture: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", picture.size, (255, 255, 255, 255)), picture).convert("RGB")


Identity = tuple[str, int, int, int]
"""Path, time of change and size of a file, and the short side that it is reduced to (0: as it is)."""


class PictureCache:
    """Decoded pictures: the most recently used in memory, at most `limit` bytes of pixels. A changed file is read again.

    A data set that is larger goes to `kept(root)`, the disk of this machine, where all its processes share one copy; where they
    are several (`shared`) every set does, and the memory is for what the disk refuses.
    """

    def __init__(self, limit: int, kept: Callable[[str], DecodedPictures] | None = None, *, shared: bool = False) -> None:
        self.limit, self.shared = limit, shared
        self.used = 0
        self._pictures: OrderedDict[Identity, Pixels] = OrderedDict()
        self._kept = kept or (lambda root: DecodedPictures(decoded_folder(root), 0))
        self._stores: dict[str, DecodedPictures] = {}
        self._spilled: set[str] = set()

    def open(self, path: str, root: str = "", short_side: int = 0) -> Pixels:
        """[h, w, 3] the decoded picture, not to be altered; reduced to `short_side`, where that is less, unless 0.

        `root` is the data set's folder. Raises `DataError` as `open_picture` does.
        """
        key = (*_identity(path), short_side)
        if key in self._pictures:
            self._pictures.move_to_end(key)
            return self._pictures[key]
        store = self._store(root)
        name = picture_key(*key, PIL.__version__)
        stored = store.get(name) if root in self._spilled else None
        if stored is not None:
            return stored
        pixels = np.asarray(reduced(open_picture(path), short_side))
        if root not in self._spilled or not store.put(name, pixels):
            self._keep(key, pixels, root)
        return pixels

    def _store(self, root: str) -> DecodedPictures:
        if root not in self._stores:
            self._stores[root] = self._kept(root)
            if self._stores[root].started or (self.shared and self._stores[root].limit):
                self._spilled.add(root)
        return self._stores[root]

    def _keep(self, key: Identity, pixels: Pixels, root: str) -> None:
        if self.used + pixels.nbytes > self.limit and self._stores[root].limit:
            self._spilled.add(root)
        if pixels.nbytes > self.limit:
            return
        self._pictures[key] = pixels
        self.used += pixels.nbytes
        while self.used > self.limit:
            self.used -= self._pictures.popitem(last=False)[1].nbytes

    def __len__(self) -> int:
        return len(self._pictures)


def reduced(picture: Image.Image, short_side: int) -> Image.Image:
    """The picture with its shorter side reduced to `short_side` (bilinear, antialiased), never enlarged; 0: as it is."""
    sides = reduced_sides(picture.size, short_side)
    return picture if sides == picture.size else picture.resize(sides, Image.Resampling.BILINEAR)


def reduced_sides(sides: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Width and height of a picture whose shorter side is reduced to `short_side`, as `reduced` does it."""
    least = min(sides)
    if not short_side or least <= short_side:
        return sides
    return round(sides[0] * short_side / least), round(sides[1] * short_side / least)


def _identity(path: str) -> tuple[str, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return path, -1, -1
    return path, status.st_mtime_ns, status.st_size


def memory_limit() -> int:
    """Bytes that `$DMKD_PICTURE_CACHE_MB` allows. Raises `DataError` where it is no whole number."""
    text = os.environ.get(LIMIT_MB, "512")
    if not text.isdecimal():
        raise DataError(f"${LIMIT_MB}: found {text!r}, wanted a whole number of megabytes")
    return int(text) * 2**20


_caches: dict[str, PictureCache] = {}


def shared_cache() -> PictureCache:
    """The process's own cache: a small data set is decoded once a process (`$DMKD_SHARE_PICTURES`: a machine), a large one once
    a machine."""
    if "cache" not in _caches:
        limit = decoded_limit()
        shared = os.environ.get(SHARE, "") == "1"
        _caches["cache"] = PictureCache(memory_limit(), lambda root: DecodedPictures(decoded_folder(root), limit), shared=shared)
    return _caches["cache"]
