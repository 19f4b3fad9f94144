"""From what the nodes answered to lines for a person: ok, or what to do. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sweeps.checks.node import Report
from sweeps.checks.survey import Answer

SKEW = 2.0
"""Seconds that clocks may differ. Steps and heartbeats do not depend on clocks; times in MLflow and signatures of S3 do."""


@dataclass(frozen=True)
class Line:
    """One thing that was looked at."""

    what: str
    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'}  {self.what:<16}  {self.text}"


Heard = Mapping[str, Report]
"""Reports by the node's name."""


def node_lines(answers: Sequence[Answer], tracking_uri: str, storage: str) -> list[Line]:
    """Everything that the nodes were asked for."""
    heard = {answer.node: answer.report for answer in answers if answer.report is not None}
    silent = [f"{answer.node}: {answer.reason}" for answer in answers if answer.report is None]
    if silent:
        lines = [Line("nodes", False, text) for text in silent]
    else:
        lines = [Line("nodes", True, f"{len(heard)} answered: {', '.join(heard)}")]
    if not heard:
        return lines
    lines += [*versions(heard), *code(heard), *_data(heard)]
    lines += _reasons("tracker", heard, tracking_uri, lambda found: found["tracker"])
    lines += _reasons("storage", heard, storage, lambda found: found["storage"])
    return [*lines, *gpus(answers), clocks(answers)]


def _reasons(what: str, heard: Heard, place: str, reason: Callable[[Report], str]) -> list[Line]:
    """A line for each node with a reason, or one that says all is well."""
    if not place:
        return []
    wrong = {node: reason(found) for node, found in heard.items() if reason(found)}
    if not wrong:
        return [Line(what, True, f"{place} from {_every(heard)}")]
    return [Line(what, False, f"{place} from {node}: {text}") for node, text in wrong.items()]


def versions(heard: Heard) -> list[Line]:
    """Python and the packages; the most common version is taken for the right one."""
    told = {node: {"python": found["python"], **found["versions"]} for node, found in heard.items()}
    lines = []
    for name in next(iter(told.values())):
        wanted = _common([found[name] for found in told.values()])
        lines += [
            Line(
                "versions",
                False,
                f"{name} is {found[name]} on {node}, {wanted} elsewhere: install the same there "
                "(pip install -c constraints.txt -e .)",
            )
            for node, found in told.items()
            if found[name] != wanted
        ]
    first = next(iter(told.values()))
    shown = ", ".join(f"{name} {first[name]}" for name in ("python", "torch", "ray", "mlflow"))
    return lines or [Line("versions", True, f"equal on {_every(heard)}: {shown}")]


def code(heard: Heard) -> list[Line]:
    """The source of dmkd itself: a trial that another commit trains is another trial."""
    wanted = _common([found["code"] for found in heard.values()])
    odd = [node for node, found in heard.items() if found["code"] != wanted]
    lines = [
        Line("code", False, f"{node} has other source files of dmkd: check out the same commit there, restart its Ray")
        for node in odd
    ]
    return lines or [Line("code", True, f"the same on {_every(heard)} ({wanted})")]


def _data(heard: Heard) -> list[Line]:
    """Each data set on each node, and that all have the same pictures."""
    lines = []
    for name in dict.fromkeys(name for found in heard.values() for name in found["data"]):
        there = {node: found["data"][name] for node, found in heard.items()}
        wanted = _common([mark for mark, reason in there.values() if not reason] or [""])
        wrong = [Line("data", False, f"{name} on {node}: {reason}") for node, (_, reason) in there.items() if reason]
        wrong += [
            Line("data", False, f"{name} on {node} has other pictures (fingerprint {mark}, {wanted} elsewhere): copy it again")
            for node, (mark, reason) in there.items()
            if not reason and mark != wanted
        ]
        lines += wrong or [Line("data", True, f"{name} on {_every(heard)}, fingerprint {wanted}")]
    return lines


def gpus(answers: Sequence[Answer]) -> list[Line]:
    """What Ray was told of, what torch sees, and whether torch and faiss can compute on it."""
    asked = [answer for answer in answers if answer.report is not None and answer.report["gpus"] is not None]
    wrong = [Line("gpu", False, f"{answer.node}: {reason}") for answer in asked if (reason := _gpu_reason(answer))]
    if wrong or not asked:
        return wrong
    cards = Counter(card for answer in asked for card in (answer.report or {"gpus": None})["gpus"]["cards"])  # type: ignore[index]
    if not cards:
        return [Line("gpu", True, "none on any node: trials train on CPUs")]
    shown = ", ".join(f"{count} x {card}" for card, count in cards.items())
    return [Line("gpu", True, f"{shown}: torch multiplies and faiss searches on them")]


def _gpu_reason(answer: Answer) -> str:
    found = answer.report["gpus"] if answer.report else None
    if found is None:
        return ""
    seen = ", ".join(found["cards"]) or "none"
    if found["torch"] and not found["cards"]:
        return f"{found['torch']}: look at nvidia-smi there"
    if answer.gpus > len(found["cards"]):
        return (
            f"Ray was told of {answer.gpus:g} GPUs, torch sees {len(found['cards'])} ({seen}): look at nvidia-smi there and at "
            f"CUDA_VISIBLE_DEVICES, or start Ray with --num-gpus {len(found['cards'])}"
        )
    if found["torch"]:
        return (
            f"torch cannot compute on {seen}; it was built for {' '.join(found['built_for'])} ({found['torch']}): "
            "install a build that has the card's architecture"
        )
    if found["faiss"]:
        return f"faiss cannot search on {seen} ({found['faiss']}): install a faiss-gpu that has the card's architecture"
    if len(found["cards"]) > answer.gpus:
        return f"torch sees {seen}, Ray was told of {answer.gpus:g} GPUs: start Ray there with --num-gpus {len(found['cards'])}"
    return ""


def clocks(answers: Sequence[Answer]) -> Line:
    """The clock that is furthest from the driver's, if it certainly is too far."""
    heard = [answer for answer in answers if answer.report is not None]
    odd = [answer for answer in heard if abs(answer.ahead) - answer.doubt > SKEW]
    if odd:
        worst = max(odd, key=lambda answer: abs(answer.ahead))
        side = "ahead of" if worst.ahead > 0 else "behind"
        rest = f" (and {len(odd) - 1} more nodes)" if len(odd) > 1 else ""
        return Line(
            "clock", False, f"{worst.node} is {abs(worst.ahead):.0f} s {side} this machine{rest}: start chrony or ntpd there"
        )
    return Line("clock", True, f"within {SKEW:g} s on {_every({answer.node: answer.report for answer in heard})}")  # type: ignore[misc]


def _common(values: Sequence[str]) -> str:
    return Counter(values).most_common(1)[0][0]


def _every(heard: Heard) -> str:
    return f"{len(heard)} nodes" if len(heard) > 1 else "the one node"
