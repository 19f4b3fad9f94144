"""Do the methods work? One controlled study of the five papers' claims; `make study` runs it, docs/results.md shows it."""
