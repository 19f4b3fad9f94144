"""The commands of `dmkd`, a file each family: `add(command)` gives the parsers, and each action is one function of the options.

What is slow to import is imported by the action that needs it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

Action = Callable[[argparse.Namespace], None]
"""What a command does with its options."""
Add = Callable[[str, Action, str], argparse.ArgumentParser]
"""`command(name, action, text)`: a new parser of the command line."""
