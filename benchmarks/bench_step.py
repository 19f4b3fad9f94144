"""One training step of each method against the same step without distillation, input already on the device; and its profile.

    python benchmarks/bench_step.py               # 10 minutes; on a GPU: batch 112 at 224, bf16
    python benchmarks/bench_step.py step 16x96    # another batch and side; or terms, compiled, heap, profile, gpu_rows
    DMKD_BENCH_ROWS=MSDF python benchmarks/bench_step.py step 112x224    # only the rows whose names contain this

Student ResNet-50, 128 dimensions, multi-similarity. The peer of a method is the plain step; its limit the plain step and, where
there is a teacher, that teacher's forward pass alone (measured: batch-norms folded, in its precision), so that what a row has
over its limit is what its terms cost. The teacher is run as in training (`distill.teachers`). What diffusion adds is too little
to be told from the difference of two steps: `terms` times the loss terms alone, forward and backward, on embeddings.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from ratio import device, heading, not_measured, on_gpu, record, timed
from torch import Tensor

from dmkd.distill.base import Method, Shapes, Step
from dmkd.distill.diffusion import Diffusion
from dmkd.distill.metric_learning import MetricLearning
from dmkd.distill.obd_sd import ObdSd
from dmkd.distill.s2sd import S2SD
from dmkd.distill.teachers import PreviousEpoch
from dmkd.grad_cache import WholeBatch
from dmkd.heap import Heap, peak
from dmkd.losses import MultiSimilarity
from dmkd.models import Network, Teacher
from dmkd.models.embedder import EmbeddingNet, Features, assemble
from dmkd.optim import Optim, Precision, make_optimizer, optimizer_step, parameter_groups

BATCH, SIDE, PRECISION = (112, 224, "bf16") if on_gpu() else (32, 112, "fp32")
REPEATS = 5
STEPS = 10 if on_gpu() else 1
"""Steps that are timed together: as in training, the host runs ahead of a GPU, and waits for it at their end alone."""
HEAP = Heap(torch.device(device()))
"""Of this process, as of a training's."""
ON = f", {PRECISION}, GPU" if on_gpu() else ""
"""End of a row's name: a GPU's rows stand beside those of a CPU, in the place of the ones that were not measured."""


@dataclass(frozen=True)
class Row:
    """A method that is measured, its teacher's precision ("": no teacher), and the largest ratio to the plain step."""

    method: Method
    goal: float
    teacher: str = ""


PSD, OBD_SD = ObdSd(diffusion=Diffusion(enabled=False)), ObdSd()
ROWS = {
    "S2SD-MSDF": Row(S2SD(feature_delay=0), 1.03),
    "PSD": Row(PSD, 1.25, "student"),
    "OBD-SD (batch diffusion)": Row(OBD_SD, 1.26, "student"),
}
DIFFUSED = {"PSD": PSD, "OBD-SD": OBD_SD}
IN_BF16 = {
    "PSD, teacher.precision=bf16": Row(PSD, 1.25, "bf16"),
    "OBD-SD (batch diffusion), teacher.precision=bf16": Row(OBD_SD, 1.26, "bf16"),
}
"""Where a step is in float32."""


def network() -> EmbeddingNet:
    torch.manual_seed(0)
    net = assemble(Network(backbone="resnet50", dim=128, resolution=SIDE))
    return net.to(device(), memory_format=torch.channels_last)


def images() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(BATCH, 3, SIDE, SIDE).to(device(), memory_format=torch.channels_last)


def previous(precision: str) -> PreviousEpoch:
    """The teacher of a step: the network as it was before the epoch."""
    teacher = PreviousEpoch(Teacher(precision=precision), torch.device(device()))
    teacher.refresh(network())
    return teacher


def stepper(method: Method, own: str = "", *, compiled: bool = False) -> Callable[[], None]:
    """A function that makes one optimizer step of `method`, as the trainer does; `own` is its teacher's precision."""
    net, optim = network().train(), Optim(precision=PRECISION)
    loss = MultiSimilarity()
    shapes = Shapes(*net.sizes(method.stages), classes=BATCH // 2, images=1000)
    objective = method.build(shapes, lambda dim: loss.build(dim, BATCH // 2)).to(device())
    teacher, passes = previous(own) if own else None, WholeBatch(net, method, compiled=compiled)
    optimizer = make_optimizer(parameter_groups(net, objective.parameter_groups(optim.lr), optim), optim)
    precision, x = Precision(PRECISION, torch.device(device())), images()
    labels = torch.arange(BATCH // 2).repeat_interleave(2).to(device())
    rest = {"labels": labels, "index": torch.arange(BATCH), "view": torch.zeros(BATCH), "role": torch.zeros(BATCH)}

    def step() -> None:
        with precision.autocast():
            taught = passes.teacher(teacher, x, None) if teacher else None
            made = Step(student=passes.student(x), teacher=taught, iteration=10**6, progress=0.5, **rest)
            total = torch.stack([term.float() for term in objective(made).values()]).sum()
        precision.scaler.scale(total).backward()
        optimizer_step(optimizer, precision, optim)
        HEAP.after_step()

    return step


def forward() -> Callable[[], None]:
    """A forward pass of the network as it is."""
    net, x, precision = network().eval(), images(), Precision(PRECISION, torch.device(device()))

    def run() -> None:
        with torch.no_grad(), precision.autocast():
            net(x)

    return run


def teaching(own: str) -> Callable[[], None]:
    """A teacher's forward pass alone."""
    teacher, x, precision = previous(own), images(), Precision(PRECISION, torch.device(device()))
    passes = WholeBatch(network(), PSD)

    def run() -> None:
        with precision.autocast():
            passes.teacher(teacher, x, None)

    return run


def measured(rows: dict[str, Row]) -> dict[str, list[float]]:
    """Seconds of every row, of the plain step, and of the passes alone."""
    runs = {"plain": stepper(MetricLearning()), "forward": forward()}
    runs |= {f"teacher, {row.teacher}": teaching(row.teacher) for row in rows.values() if row.teacher}
    runs |= {name: stepper(row.method, row.teacher) for name, row in rows.items()}
    return in_turn(runs)


def in_turn(runs: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Seconds of `REPEATS` steps of each, in turn, after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            wall, cpu = timed(lambda run=run: [run() for _ in range(STEPS)])
            if repeat:
                seconds[name].append((wall if on_gpu() else cpu) / STEPS)
    return seconds


def main() -> None:
    heading()
    print(f"batch {BATCH} at {SIDE} pixels, {PRECISION}")
    rows = ROWS | (IN_BF16 if PRECISION == "fp32" else {})
    rows = {name: row for name, row in rows.items() if os.environ.get("DMKD_BENCH_ROWS", "") in name}
    seconds = measured(rows)
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    passes = ["forward", *(f"teacher, {own}" for own in sorted({row.teacher for row in rows.values()} - {""}))]
    for name in passes:
        what = f"a pass ({name}) over the plain step, ResNet-50, batch {BATCH} at {SIDE}{ON}"
        record(
            what, seconds[name], seconds["plain"], peer_name="the step without distillation", clock="wall" if on_gpu() else "cpu"
        )
    for name, row in rows.items():
        record(
            f"step of {name}, ResNet-50, batch {BATCH} at {SIDE}{ON}",
            seconds[name],
            seconds["plain"],
            peer_name="the step without distillation",
            goal=row.goal,
            limit=middle["plain"] + (middle[f"teacher, {row.teacher}"] if row.teacher else 0.0),
            limit_name="plain step + teacher's forward pass" if row.teacher else "plain step",
            clock="wall" if on_gpu() else "cpu",
        )


def terms() -> None:
    """What diffusion adds to PSD's terms, as a share of a plain step; the goal is a point."""
    heading()
    with torch.no_grad():
        features = network().eval()(images())
    runs = {"plain": stepper(MetricLearning())} | {name: of_terms(method, features) for name, method in DIFFUSED.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            together = [timed(lambda run=run: [run() for _ in range(STEPS)]) for _ in range(1 if name == "plain" else 20)]
            if repeat:
                seconds[name].append(statistics.median(times[0 if on_gpu() else 1] for times in together) / STEPS)
    more = [with_ - without for with_, without in zip(seconds["OBD-SD"], seconds["PSD"], strict=True)]
    print(f"terms alone: { ({name: f'{1e3 * statistics.median(times):.2f} ms' for name, times in seconds.items()}) }")
    record(
        f"what diffusion adds to PSD's terms, ResNet-50, batch {BATCH} at {SIDE}{ON}",
        more,
        seconds["plain"],
        peer_name="the step without distillation",
        goal=0.01,
        clock="wall" if on_gpu() else "cpu",
    )


def compiled() -> None:
    """A plain step by `optim.compile` against one without; what compiling takes is the first step's time."""
    heading()
    runs = {"compiled": stepper(MetricLearning(), compiled=True), "as it is": stepper(MetricLearning())}
    first, _ = timed(runs["compiled"])
    print(
        f"batch {BATCH} at {SIDE} pixels, {PRECISION}: the first compiled step, with what was kept of earlier ones, {first:.0f} s"
    )
    seconds = in_turn(runs)
    record(
        f"step by optim.compile, ResNet-50, batch {BATCH} at {SIDE}{ON or f', {PRECISION}'}",
        seconds["compiled"],
        seconds["as it is"],
        peer_name="the step without it",
        clock="wall" if on_gpu() else "cpu",
        first_step_s=first,
    )


def heap() -> None:
    """Plain steps that keep the memory which they give back (`dmkd.heap`) against steps that do not, each in a process."""
    heading()
    runs: dict[str, list[float]] = {"kept": [], "left": []}
    memory: dict[str, list[float]] = {"kept": [], "left": []}
    for _ in range(REPEATS):
        for how, times in runs.items():
            command = [sys.executable, __file__, f"one_{how}", f"{BATCH}x{SIDE}"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, held = map(float, done.stdout.split())
            times.append(seconds)
            memory[how].append(held)
    most = {how: statistics.median(held) for how, held in memory.items()}
    name, peer = f"step with its memory kept, ResNet-50, batch {BATCH} at {SIDE}", "malloc as it is"
    record(name, runs["kept"], runs["left"], peer_name=peer, clock="cpu", peak_mb=most["kept"], peer_peak_mb=most["left"])


def one(how: str) -> None:
    """CPU seconds of a step after three, and the process's peak in MB."""
    if how == "left":
        HEAP.after_step = lambda: None  # type: ignore[method-assign]
    step = stepper(MetricLearning())
    times = [timed(step)[1] for _ in range(6)]
    if HEAP.kept != (how == "kept"):
        raise SystemExit(f"memory was {'' if HEAP.kept else 'not '}kept: this machine has too little of it, or MALLOC_... is set")
    print(statistics.median(times[3:]), peak() / 2**20)


def of_terms(method: Method, features: Features) -> Callable[[], None]:
    """A function that computes the terms of `method` on given features, and their gradient."""
    loss = MultiSimilarity()
    shapes = Shapes(*network().sizes(method.stages), classes=BATCH // 2, images=1000)
    objective = method.build(shapes, lambda dim: loss.build(dim, BATCH // 2)).to(device())
    student = replace(features, embedding=features.embedding.detach().requires_grad_())
    taught = replace(features, embedding=features.embedding.detach())
    labels = torch.arange(BATCH // 2).repeat_interleave(2).to(device())
    rest = {"labels": labels, "index": torch.arange(BATCH), "view": torch.zeros(BATCH), "role": torch.zeros(BATCH)}

    def run() -> None:
        made = objective(Step(student=student, teacher=taught, iteration=10**6, progress=0.5, **rest))
        torch.stack([term.float() for term in made.values()]).sum().backward()

    return run


def profile() -> None:
    """Where one plain step, and one of MSDF, spends its time."""
    for name, method in (("plain", MetricLearning()), ("S2SD-MSDF", S2SD(feature_delay=0))):
        step = stepper(method)
        step()
        with torch.profiler.profile() as found:
            timed(step)
        order = f"self_{'device' if on_gpu() else 'cpu'}_time_total"
        print(f"== {name}\n{found.key_averages().table(sort_by=order, row_limit=14, max_name_column_width=34)}")


def gpu_rows() -> None:
    """What only a machine with a GPU can measure, with the command."""
    command = "python benchmarks/bench_step.py"
    for name, goal in (("S2SD-MSDF", 1.03), ("PSD", 1.25), ("OBD-SD (batch diffusion)", 1.26)):
        not_measured(f"step of {name}, ResNet-50, batch 112 at 224, bf16, GPU", goal=goal, command=command, why="no GPU here")
    not_measured("step by optim.compile, ResNet-50, batch 112 at 224, bf16, GPU", goal=None, command=command, why="no GPU here")
    command = "python benchmarks/bench_evaluation.py"
    not_measured("evaluation on a GPU, 60,502 x 128: R@K, R-precision, mAP@R", goal=0.4, command=command, why="no GPU here")


PARTS = {"step": main, "terms": terms, "compiled": compiled, "heap": heap, "profile": profile, "gpu_rows": gpu_rows}
PARTS |= {f"one_{how}": partial(one, how) for how in ("kept", "left")}

if __name__ == "__main__":
    sizes = [word for word in sys.argv[1:] if word[0].isdigit()]
    if sizes:
        BATCH, SIDE = map(int, sizes[0].split("x"))
    for part in [word for word in sys.argv[1:] if word not in sizes] or (
        ["step", "terms", "compiled"] if on_gpu() else ["step", "terms", "compiled", "heap", "gpu_rows"]
    ):
        PARTS[part]()
