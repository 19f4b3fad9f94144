"""Tables of what networks cost: nothing is trained, each network is built and counted, and stands beside its printed numbers."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.options import Options
from sweeps.places import find_places
from sweeps.tables.table import Table, chosen
from tracking.published import configurations, load_published
from tracking.runs import log_run

NETWORKS = {
    "resnet18": "resnet18",
    "resnet101": "resnet101",
    "mobilenet0.25": "mobilenet_v1_025",
    "vgg16": "vgg16_unpooled",
    "mobilenetv2": "mobilenet_v2",
    "efficientnet_b3": "timm/tf_efficientnet_b3",
}
AML_SIZE = 362
"""The asymmetric paper does not name the size of its FLOPs; its training size gives them. It counts a multiply-add twice."""


@dataclass(frozen=True)
class Cost:
    """A network's printed and counted numbers, by the printed metric."""

    key: str
    printed: dict[str, float]
    counted: dict[str, float]

    def lines(self) -> list[str]:
        """One line a number."""
        return [f"  {self.key:44} {name:20} {value:8.2f} {self._ours(name, value)}" for name, value in self.printed.items()]

    def _ours(self, name: str, printed: float) -> str:
        ours = self.counted.get(name)
        return f"{'':8} not counted" if ours is None else f"{ours:8.2f} {ours - printed:+8.2f}"


def run_costs(table: Table, options: Options) -> list[str]:
    """Count every network of a table, print it, and log a run each; nothing fails."""
    places = find_places(options, options.name or table.name, make=not options.dry_run)
    lines = chosen(table.rows(table.datasets[0]), options.rows)
    if options.dry_run:
        print(f"{table.name}: {len(lines)} networks are built and counted: seconds, nothing is trained, nothing is missing")
        return []
    costs = [count(line.key) for line in lines]
    for cost in costs:
        params = {"published": cost.key}
        tags = {"dmkd.sweep": table.name, "dmkd.published": cost.key, "dmkd.stage": "cost"}
        experiment = f"networks/{options.name or table.name}"
        with log_run(places.tracking_uri, experiment, cost.key, params=params, tags=tags, key=f"{table.name}/{cost.key}") as run:
            run.log({f"model/{name}": value for name, value in cost.counted.items()}, step=0)
    head = f"  {'row':44} {'':20} {'printed':>8} {'counted':>8} {'differ':>8}"
    print("\n".join([head, *(text for cost in costs for text in cost.lines())]))
    return []


def count(key: str) -> Cost:
    """The numbers of a key; a network that dmkd does not have (pruned by others) is not counted."""
    about = {row["key"]: row for row in configurations().iter_rows(named=True)}[key]
    cells = load_published().filter(load_published()["key"] == key)
    printed = dict(cells.select("metric", "value").iter_rows())
    own = about["method"] == "plfp_pruning"
    return Cost(key, printed, {} if own else _counted(about["paper"], about["backbone"], about["dim"], about["method"]))


def _counted(paper: str, backbone: str, dim: int, method: str) -> dict[str, float]:
    """Parameters in millions, GFLOPs as the paper counts them, and both in percent of VGG16's."""
    added = dim if paper == "yu2019" or method == "aml_student" else 0
    projection = "conv" if method == "aml_student" else "linear"
    parameters, gflops = _network(backbone, added, projection)
    if paper == "yu2019":
        return {"params_m": parameters}
    whole, cost = _network("vgg16", 0, "linear")
    percent = {"flops_pct_of_vgg16": 100 * gflops / cost, "params_pct_of_vgg16": 100 * parameters / whole}
    return {"gflops": 2 * gflops, "params_m": parameters} | percent


def _network(backbone: str, dim: int, projection: str) -> tuple[float, float]:
    import torch

    from dmkd.models import Network
    from dmkd.models.embedder import build_network
    from dmkd.models.registry import count_gflops, count_parameters

    network = Network(backbone=NETWORKS[backbone], weights="none", dim=dim, projection=projection, resolution=AML_SIZE)
    with torch.device("meta"):
        net = build_network(network)
    return count_parameters(net) / 1e6, count_gflops(net, AML_SIZE)
