"""What `dmkd gc` may free of sweeps in a bucket."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence

from sweeps.bucket.head import Head, read_head
from sweeps.bucket.lease import DRIVER
from sweeps.bucket.storage import Bucket
from sweeps.bucket.store import Store
from sweeps.bucket.trial import unnamed

Found = tuple[str, int, Callable[[], object]]
"""What it is, its bytes, and what deletes it."""


def waste_below(url: str, needless: Collection[str], heavy: Sequence[str], everything: bool) -> Iterator[Found]:
    """Of finished sweeps: `heavy` parts of the runs whose keys are `needless`, with `everything` also what no head names.

    Raises `SweepError` where the bucket cannot be read.
    """
    root = Store.of(url)
    for name in sorted(name for name in root.sizes("") if name.count("/") == 1 and name.endswith(f"/{DRIVER}")):
        bucket = Bucket.of(url, name.partition("/")[0])
        driver = (read_head(bucket.store, DRIVER) or (Head(), ""))[0]
        record = json.loads(driver.text("sweep.json") or "{}")
        if record.get("finished"):
            yield from _of_sweep(bucket, str(record["id"]), needless, heavy, everything)


def _of_sweep(bucket: Bucket, sweep: str, needless: Collection[str], heavy: Sequence[str], everything: bool) -> Iterator[Found]:
    sizes = bucket.store.sizes("")
    for name in sorted(name for name in sizes if name.startswith("heads/")):
        key = name.removeprefix("heads/").removesuffix(".json")
        head = (read_head(bucket.store, name) or (Head(), ""))[0]
        gone = heavy if f"{sweep}/{key}" in needless else ("state",) * (everything and "done.json" in head.files)
        for part in gone:
            held = {file for file in head.files if file.startswith(f"{part}/")}
            count = sum(int(head.files[file].get("size", 0)) for file in held)
            if held:
                yield f"{bucket.store.url}: {part} of {key}", count, _dropper(bucket, key, part)
        left = unnamed(bucket.store, key, head.token, head.objects()) if everything else []
        if left:
            count = sum(sizes[one][1] for one in left if one in sizes)
            yield f"{bucket.store.url}: what no worker of {key} names", count, _deleter(bucket.store, left)


def _dropper(bucket: Bucket, key: str, part: str) -> Callable[[], None]:
    return lambda: bucket.amend(bucket.root / "trials" / key, drop=[part])


def _deleter(store: Store, names: list[str]) -> Callable[[], None]:
    return lambda: store.delete(names)
