#!/usr/bin/env python
"""Writes docs/methods.md from the code; tests/test_handbook.py compares.

python docs/make_methods.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dmkd.commands.methods import published_rows
from dmkd.handbook import page

if __name__ == "__main__":
    Path(__file__).with_name("methods.md").write_text(page(published_rows() or []), encoding="utf-8")
