"""Another data set for the warm start: people and hands in six skin tones by two artists, 12 pictures a class, a folder each.

The task is another than that of the signs (no tones, two pictures a class): here tones have to be looked through. Its untoned
drawings, a sixth, are also among the signs. The pictures are rendered below dmkd's cache.
"""

from __future__ import annotations

from pathlib import Path

from dmkd.data.signs import PACKAGES, SKIN_TONES, default_root, render, sign_files

SIZE = 64


def root() -> Path:
    """The data set's folder, rendered where it is not there yet."""
    files = {vendor: sign_files(vendor) for vendor in PACKAGES}
    tones = sorted(SKIN_TONES)
    toned = [sign for sign in files["openmoji"] if len(sign) == 1 and all((*sign, tone) in files["openmoji"] for tone in tones)]
    folder = default_root().parent / f"tones-{SIZE}px"
    for sign in sorted(toned):
        for variant in [sign, *((*sign, tone) for tone in tones)]:
            for vendor, known in files.items():
                file = folder / sign[0] / f"{'-'.join(variant)}-{vendor}.png"
                if variant in known and not file.exists():
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(render(known[variant], SIZE))
    return folder
