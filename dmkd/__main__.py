"""`python -m dmkd` is `dmkd`."""

from dmkd.cli import main

main()
