"""Zeng et al. 2022: OBD-SD, its ablations and the self-distillation methods it is compared with."""

from __future__ import annotations

from sweeps.papers import s2sd
from sweeps.papers.fine_grained import SELECTION, SWITCH_NOTE, batches, pipeline
from sweeps.papers.row import Plan, Row, Values, chosen

WEIGHT = {"cub200": 1000.0, "cars196": 75.0, "sop": 100.0}
OMEGA = {"cub200": 0.3, "cars196": 0.99, "sop": 0.5}
DIFFUSION_TEMPERATURE = {"cub200": 1.0, "cars196": 1.0, "sop": 0.005}
BAR_WEIGHT = {"cub200": 100.0, "cars196": 50.0}
EPOCHS = {"cub200": 150, "cars196": 150, "sop": 100}

LONG: dict[str, Values] = {
    "cub200": {},
    "cars196": {"optim.epochs": 300, "optim.schedule": "steps", "optim.milestones": (200, 250), "optim.gamma": 0.3},
    "sop": {"optim.epochs": 200, "optim.schedule": "steps", "optim.milestones": (70, 100), "optim.gamma": 0.2},
}
"""Schedules of the released commands for 512 dimensions with average + max pooling; the weight is 200 on Cars and SOP there."""

SAMPLERS = {"random": "random", "semihard": "semihard", "softhard": "softhard", "distance": "distance_weighted"}

LONG_NOTE = "Table 2's schedule is released for 512 dimensions with average + max pooling alone, and taken for its other rows"
CUB_NOTE = "Table 2's schedule on CUB is not published: that of Table 1 is taken"
BAR_NOTE = "BAR has no code and the text gives only its weight: a frozen network of the same architecture, KL of similarity rows"
STATIC_NOTE = "the weight without the ramp was chosen by ablation (Sec. 5.3) and is not printed: that of PSD is taken"
REFINED_NOTE = "Table 6 names no omega for the methods that it refines: OBD-SD's of the data set is taken"
GLOBAL_NOTE = "as released: mutual neighbours, similarities cubed; Eq. 12 has no power"


def plan(row: Row) -> Plan:
    """A row of Tables 1 to 9."""
    values = pipeline(row) | method(row) | batches() | {"optim.epochs": EPOCHS[row.dataset]} | variant(row)
    if row.table == "T2":
        values |= longer(row)
    notes = {
        LONG_NOTE: row.table == "T2" and row.dataset != "cub200" and (row.dim, row.variant) != (512, "avg+max"),
        CUB_NOTE: row.table == "T2" and row.dataset == "cub200",
        SWITCH_NOTE: row.base_loss == "r_margin",
        BAR_NOTE: row.method.startswith("bar"),
        STATIC_NOTE: row.method == "psd_static",
        REFINED_NOTE: row.method.endswith("+obdp"),
        GLOBAL_NOTE: row.method == "obd_global",
    }
    teacher = row.other("none", table="T5") if row.method.startswith("bar") else ""
    return Plan(values, teacher, selection=SELECTION, notes=tuple(note for note, holds in notes.items() if holds))


def method(row: Row) -> Values:
    """The method with the weight and omega of the data set (Sec. 5.1)."""
    data = row.dataset
    diffusion = {"method.diffusion.enabled": True, "method.diffusion.omega": OMEGA[data]}
    diffusion |= {"method.diffusion.temperature": DIFFUSION_TEMPERATURE[data]}
    own = {"method.name": "obd_sd", "method.weight": WEIGHT[data], "method.temperature": 1.0}
    plain = {"method.diffusion.enabled": False}
    bar = {"method.name": "kl", "method.weight": BAR_WEIGHT.get(data), "method.temperature": 1.0}
    methods: dict[str, Values] = {
        "none": {"method.name": "metric_learning"},
        "obd_sd": own | diffusion,
        "psd": own | plain,
        "psd_static": own | plain | {"method.dynamic": False},
        "obd_global": own | diffusion | {"method.scope": "global", "method.neighbours": 50, "method.power": 3.0},
        "bar": bar | plain,
        "bar+obdp": bar | diffusion,
    }
    if row.method.startswith("msd"):
        own = s2sd.distillation(Row(**vars(row) | {"method": "msd"}))
        return own | (diffusion if row.method == "msd+obdp" else {})
    return chosen(methods, row.method)


def variant(row: Row) -> Values:
    """Sampler (Table 4), pooling (Table 2, +D) and label noise (Table 9)."""
    name, _, value = row.variant.partition("=")
    if name == "sampling":
        return {"loss.sampler": SAMPLERS[value]}
    if name == "noise":
        return {"data.label_noise": float(value)}
    return {"student.pooling": "average+max"} if name == "avg+max" else {}


def longer(row: Row) -> Values:
    """Table 2: longer training and a schedule, as far as it was released."""
    weight = {"method.weight": 200.0} if row.dataset != "cub200" and (row.dim, row.variant) == (512, "avg+max") else {}
    return LONG[row.dataset] | weight
