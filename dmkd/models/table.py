"""The tables of docs/networks.md: the named networks, and their costs beside the papers'. `python -m dmkd.models.table`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from dmkd.models import Network
from dmkd.models.describe import NAMED, Described, describe
from dmkd.models.embedder import assemble
from dmkd.models.registry import count_gflops, count_parameters

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
"""The page, in a checkout of the repository."""

AML_RESOLUTION = 362
"""AML's training resolution; its Table 4 does not say which one its FLOPs are of, but they are those of 362 px."""


@dataclass(frozen=True)
class Published:
    """A network's cost as a paper prints it."""

    source: str
    backbone: str
    dim: int
    projection: str
    parameters: float
    """Millions."""
    gflops: float | None = None
    """A multiply-add counts two here."""


PUBLISHED = (
    Published("AML, Table 4", "vgg16", 0, "linear", 14.71, 79.40),
    Published("AML, Table 4", "resnet101", 0, "linear", 42.50, 42.85),
    Published("AML, Table 4", "mobilenet_v2", 0, "linear", 2.22, 1.74),
    Published("AML, Table 4", "mobilenet_v2", 512, "conv", 2.88, 1.94),
    Published("AML, Table 4", "mobilenet_v2", 2048, "conv", 4.85, 2.50),
    Published("AML, Table 4", "timm/tf_efficientnet_b3", 0, "linear", 10.70, 5.36),
    Published("AML, Table 4", "timm/tf_efficientnet_b3", 512, "conv", 11.48, 5.56),
    Published("AML, Table 4", "timm/tf_efficientnet_b3", 2048, "conv", 13.84, 6.26),
    Published("Yu, Table 4", "resnet101", 512, "linear", 48.1),
    Published("Yu, Table 4", "resnet18", 512, "linear", 11.3),
    Published("Yu, Table 4", "mobilenet_v1_025", 512, "linear", 0.3),
)

NETWORKS = (
    "| name | family | parameters, M | GFLOPs | at, px | channels | stride | blocks that are stages | ImageNet weights |",
    "|---|---|---|---|---|---|---|---|---|",
)
COSTS = (
    "| source | network | dim | parameters, M: paper | ours | GFLOPs x 2: paper | ours |",
    "|---|---|---|---|---|---|---|",
)


def row(network: Described) -> str:
    """A line of the first table."""
    blocks = ", ".join(f"{stage} ({channels})" for stage, channels in _few(network))
    cells = (
        f"`{network.name}`",
        network.family,
        f"{network.parameters / 1e6:.2f}",
        f"{network.gflops:.3f}",
        str(network.resolution),
        str(network.channels),
        str(network.stride),
        blocks,
        network.weights,
    )
    return f"| {' | '.join(cells)} |"


def _few(network: Described) -> list[tuple[str, int]]:
    stages = list(network.stages.items())
    return stages if len(stages) <= 5 else [*stages[:2], *stages[-1:]]


def costs(published: Published) -> tuple[float, float]:
    """Our parameters (millions) and GFLOPs at `AML_RESOLUTION`, a multiply-add counted twice, of a published network."""
    network = Network(
        published.backbone, "none", "gem", published.dim, projection=published.projection, resolution=AML_RESOLUTION
    )
    with torch.device("meta"):
        net = assemble(network)
    return count_parameters(net) / 1e6, 2 * count_gflops(net, AML_RESOLUTION)


def cost_row(published: Published) -> str:
    """A line of the table beside the papers."""
    parameters, gflops = costs(published)
    paper, ours = ("-", "-") if published.gflops is None else (f"{published.gflops:.2f}", f"{gflops:.2f}")
    dim = str(published.dim or "-")
    figures = (f"{published.parameters:g}", f"{parameters:.2f}", paper, ours)
    return f"| {' | '.join((published.source, f'`{published.backbone}`', dim, *figures))} |"


def tables() -> dict[str, list[str]]:
    """The generated parts of the page, by the names of their markers."""
    networks = [describe(name) for name in NAMED]
    return {
        "networks": [*NETWORKS, *map(row, networks)],
        "notes": [f"- `{network.name}`: {'; '.join(network.notes)}." for network in networks if network.notes],
        "costs": [*COSTS, *map(cost_row, PUBLISHED)],
    }


def rewritten(page: str) -> str:
    """`page` with what stands between `<!-- NAME -->` and `<!-- end -->` made anew."""
    for name, lines in tables().items():
        start = page.index(f"<!-- {name} -->") + len(f"<!-- {name} -->")
        page = "\n".join([page[:start], *lines, page[page.index("<!-- end -->", start) :]])
    return page


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
