"""What the README says is what runs: its commands parse, its configuration is valid, its files and presets exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dmkd.cli import _parser
from dmkd.config import from_yaml
from dmkd.distill import METHODS, PRESETS
from sweeps.options import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    ")]
COMMANDS += re.findall(r"`(dmkd [^`]+)`", README)


@pytest.mark.parametrize("command", sorted({line for line in COMMANDS if line.startswith("dmkd ") and "`" not in line}))
def test_commands_of_the_readme_are_understood(command: str) -> None:
    assert _parser().parse_args(shlex.split(command)[1:]).run


@pytest.mark.parametrize("command", sorted({line for line in COMMANDS if "sweeps/" in line}))
def test_sweeps_of_the_readme_are_understood(command: str) -> None:
    words = shlex.split(command)
    script = next(word for word in words if word.startswith("sweeps/"))
    assert (ROOT / script).is_file()
    parse(Path(script).stem, "", words[words.index(script) + 1 :])


def test_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^    make (\w+)", README, re.MULTILINE))
    assert {"quickstart", "test", "ui"} <= targets
    assert targets <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_configuration_in_the_readme_is_valid() -> None:
    config = from_yaml(re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0])
    assert config.method == PRESETS["msdf"]
    assert config.student.backbone == "timm/tf_efficientnet_lite0"


def test_the_readme_names_every_method_and_presets_that_exist() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", README, re.MULTILINE)
    assert {name for first, _ in rows for name in re.findall(r"`(\w+)`", first)} == set(METHODS)
    named = {name for _, second in rows for name in re.findall(r"`(\w+)`", second)}
    assert named <= set(PRESETS)


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) >= 6
    assert not [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
