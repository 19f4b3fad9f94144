"""Before a sweep begins on several nodes: places that one machine alone sees are refused, and every node is asked what it has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dmkd.data import Data
from dmkd.errors import SweepError
from sweeps.checks.node import Asked
from sweeps.checks.survey import Answer, live_nodes, survey
from sweeps.places import Places

ONE_MACHINE = "DMKD_ONE_MACHINE"
"""Environment variable, 1: all nodes of this cluster are on one machine, so that its disk and a sqlite file are shared."""

LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs", "ramfs", "vfat", "exfat", "ntfs", "apfs"}
"""File systems of one machine alone, as /proc/mounts names them."""

SQLITE = (
    "a sqlite file cannot be shared by several nodes (its locks do not work across machines): start a server "
    "(cluster/README.md) and name it, --tracking-uri http://HOST:5000"
)


def check_nodes(places: Places, data: Mapping[str, tuple[Data, str]]) -> None:
    """Ask every node of a cluster of several whether it sees storage, tracker and data.

    `data`: {name: (what a trial reads, its fingerprint here)}. Raises `SweepError`: what is wrong where, and what to do.
    """
    count = len(live_nodes())
    if count < 2:
        return
    if os.environ.get(ONE_MACHINE, "") != "1":
        check_places(places, count)
    storage = places.storage.seen(places.folder)
    asked = Asked({name: what for name, (what, _) in data.items()}, places.tracking_uri, storage)
    wrong = faults(survey(asked), {name: mark for name, (_, mark) in data.items()})
    if wrong:
        more = f" (and {len(wrong) - 1} more: `dmkd doctor` lists them)" if len(wrong) > 1 else ""
        raise SweepError(wrong[0] + more)


def check_places(places: Places, count: int) -> None:
    """Refuse what only one machine can use. Raises `SweepError`."""
    if places.tracking_uri.startswith("sqlite"):
        raise SweepError(f"{places.tracking_uri} for {count} nodes: {SQLITE}")
    kind = file_system(places.folder)
    if places.storage.mounted and kind in LOCAL:
        raise SweepError(
            f"--storage {places.folder.parent} lies on a disk of this machine ({kind}), but the cluster has {count} nodes, and a "
            "trial goes on where there is room: name a folder that all of them mount (NFS, EFS, Lustre, CephFS); "
            f"{ONE_MACHINE}=1 where all nodes are on one machine"
        )


def file_system(folder: Path, mounts: str = "/proc/mounts") -> str:
    """The type of the file system that a folder lies on ("ext4", "nfs4"); empty where it is not known."""
    try:
        rows = [line.split() for line in Path(mounts).read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    place = str(folder.resolve())
    # /proc/mounts writes a blank as \040; of two mounts at one place the later one is seen.
    over = [(row[1].replace("\\040", " "), row[2]) for row in rows if len(row) > 2]
    fits = [(len(point), number, kind) for number, (point, kind) in enumerate(over) if _below(place, point)]
    return max(fits)[2] if fits else ""


def _below(place: str, point: str) -> bool:
    return place == point or place.startswith(point.rstrip("/") + "/")


def faults(answers: Sequence[Answer], marks: Mapping[str, str]) -> list[str]:
    """A sentence for each thing that would end a trial on some node; `marks`: {data set: its fingerprint at the driver}."""
    wrong = [f"node {answer.node}: {answer.reason}" for answer in answers if answer.report is None]
    for answer in answers:
        found = answer.report
        if found is None:
            continue
        if found["storage"]:
            wrong.append(f"--storage from node {answer.node}: {found['storage']}")
        if found["tracker"]:
            wrong.append(f"--tracking-uri from node {answer.node}: {found['tracker']}")
        for name, (mark, reason) in found["data"].items():
            if reason:
                wrong.append(f"data set {name} on node {answer.node}: {reason}")
            elif mark != marks[name]:
                other = f"has other pictures (fingerprint {mark}, here {marks[name]}): copy it again there"
                wrong.append(f"data set {name} on node {answer.node} {other}")
    return wrong
