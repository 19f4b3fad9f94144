"""One training step of each method against the same step without distillation, input already on the device; and its profile.

    python benchmarks/bench_step.py            # a few minutes; on a GPU: batch 112 at 224, bf16
    python benchmarks/bench_step.py profile    # or: step, gpu_rows

Student ResNet-50, 128 dimensions, multi-similarity. The peer of a method is the plain step; its limit the plain step and, where
there is a teacher, one more forward pass (measured).
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import torch
from ratio import device, heading, not_measured, on_gpu, record, timed
from torch import Tensor

from dmkd.distill.base import Method, Shapes, Step
from dmkd.distill.diffusion import Diffusion
from dmkd.distill.metric_learning import MetricLearning
from dmkd.distill.obd_sd import ObdSd
from dmkd.distill.s2sd import S2SD
from dmkd.losses import MultiSimilarity
from dmkd.models import Network
from dmkd.models.embedder import EmbeddingNet, assemble
from dmkd.optim import Optim, Precision, make_optimizer, optimizer_step, parameter_groups

BATCH, SIDE, PRECISION = (112, 224, "bf16") if on_gpu() else (32, 112, "fp32")
REPEATS = 5


def network() -> EmbeddingNet:
    torch.manual_seed(0)
    net = assemble(Network(backbone="resnet50", dim=128, resolution=SIDE))
    return net.to(device(), memory_format=torch.channels_last)


def images() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(BATCH, 3, SIDE, SIDE).to(device(), memory_format=torch.channels_last)


def stepper(method: Method, teacher: bool) -> Callable[[], None]:
    """A function that makes one optimizer step of `method`, as the trainer does."""
    net, optim = network().train(), Optim(precision=PRECISION)
    loss = MultiSimilarity()
    shapes = Shapes(*net.sizes(method.stages), classes=BATCH // 2, images=1000)
    objective = method.build(shapes, lambda dim: loss.build(dim, BATCH // 2)).to(device())
    previous = network().eval().requires_grad_(False) if teacher else None
    optimizer = make_optimizer(parameter_groups(net, objective.parameter_groups(optim.lr), optim), optim)
    precision, x = Precision(PRECISION, torch.device(device())), images()
    labels = torch.arange(BATCH // 2).repeat_interleave(2).to(device())
    own = {"labels": labels, "index": torch.arange(BATCH), "view": torch.zeros(BATCH), "role": torch.zeros(BATCH)}

    def step() -> None:
        with precision.autocast():
            taught = None
            if previous is not None:
                with torch.no_grad():
                    taught = previous(x, stages=method.stages)
            made = Step(student=net(x, stages=method.stages), teacher=taught, iteration=10**6, progress=0.5, **own)
            total = torch.stack([term.float() for term in objective(made).values()]).sum()
        precision.scaler.scale(total).backward()
        optimizer_step(optimizer, precision, optim)

    return step


def forward() -> Callable[[], None]:
    net, x, precision = network().eval(), images(), Precision(PRECISION, torch.device(device()))

    def run() -> None:
        with torch.no_grad(), precision.autocast():
            net(x)

    return run


def main() -> None:
    heading()
    print(f"batch {BATCH} at {SIDE} pixels, {PRECISION}")
    rows: dict[str, tuple[Method, bool, float | None]] = {
        "S2SD-MSDF": (S2SD(feature_delay=0), False, 1.03),
        "PSD": (ObdSd(diffusion=Diffusion(enabled=False)), True, 1.25),
        "OBD-SD (batch diffusion)": (ObdSd(), True, 1.26),
    }
    runs = {"plain": stepper(MetricLearning(), False), "forward": forward()}
    runs |= {name: stepper(method, teacher) for name, (method, teacher, _) in rows.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 1):
        for name, run in runs.items():
            wall, cpu = timed(run)
            if repeat:
                seconds[name].append(wall if on_gpu() else cpu)
    plain, second = statistics.median(seconds["plain"]), statistics.median(seconds["forward"])
    print(f"a forward pass is {100 * second / plain:.1f} % of the plain step")
    for name, (_, teacher, goal) in rows.items():
        record(
            f"step of {name}, ResNet-50, batch {BATCH} at {SIDE}",
            seconds[name],
            seconds["plain"],
            peer_name="the step without distillation",
            goal=goal,
            limit=plain + teacher * second,
            limit_name="plain step + teacher's forward pass" if teacher else "plain step",
            clock="wall" if on_gpu() else "cpu",
        )


def profile() -> None:
    """Where one plain step, and one of MSDF, spends its time."""
    for name, method in (("plain", MetricLearning()), ("S2SD-MSDF", S2SD(feature_delay=0))):
        step = stepper(method, False)
        step()
        with torch.profiler.profile() as found:
            step()
        print(f"== {name}\n{found.key_averages().table(sort_by='self_cpu_time_total', row_limit=14, max_name_column_width=34)}")


def gpu_rows() -> None:
    """What only a machine with a GPU can measure, with the command."""
    command = "python benchmarks/bench_step.py"
    for name, goal in (("S2SD-MSDF", 1.03), ("PSD", 1.25), ("OBD-SD (batch diffusion)", 1.26)):
        not_measured(f"step of {name}, ResNet-50, batch 112 at 224, bf16, GPU", goal=goal, command=command, why="no GPU here")
    command = "python benchmarks/bench_input.py, and cost/images_per_second of a run with data.workers=4"
    not_measured("input on a GPU machine: share of a step waiting for data", goal=0.03, command=command, why="no GPU here")
    command = "python benchmarks/bench_evaluation.py"
    not_measured("evaluation on a GPU, 60,502 x 128", goal=0.4, command=command, why="no GPU here")


PARTS = {"step": main, "profile": profile, "gpu_rows": gpu_rows}

if __name__ == "__main__":
    for part in sys.argv[1:] or (["step"] if on_gpu() else ["step", "gpu_rows"]):
        PARTS[part]()
