"""A sweep's storage in an S3 bucket: what `--storage s3://bucket/prefix` means.

    store.py   objects: compare-and-swap, immutable ones, a probe for stores that ignore conditions
    head.py    a head: one small object that says what a folder holds; changed by compare-and-swap alone
    copy.py    a local folder that is fetched from a head, and put there again, whole or not at all
    trial.py   the fence of a trial: who may change its head
    lease.py   one driver a sweep: its state, its sign of life, and what it sees of the trials
    storage.py the storage as the rest of `sweeps` uses it (`sweeps.storage`)

Below `<prefix>/<sweep>/` lie `driver.json` and `driver/` (study and record), `heads/<key>.json` and `trials/<key>/<token>/`
(the runs), `beats/<key>/<token>` (signs of life) and `marks/<key>` (stopped by the scheduler).
"""
