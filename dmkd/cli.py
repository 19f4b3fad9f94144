"""`dmkd ...`: each command is one function; what is slow to import is imported by the command that needs it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from dmkd import __version__
from dmkd.errors import DmkdError

DEFAULT_TRACKING = "sqlite:///mlflow.db"


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Exit status 0, or 2 with one clear line on standard error."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not _expected(error):
            raise
        print(f"dmkd: {error}", file=sys.stderr)
        sys.exit(2)


def _expected(error: Exception) -> bool:
    """A user's mistake or the machine's refusal: one line. Anything else is ours, and shows its traceback."""
    if isinstance(error, (DmkdError, OSError)):
        return True
    tracking = sys.modules.get("tracking.errors")
    return tracking is not None and isinstance(error, tracking.TrackingError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "dmkd", description="Search for the best small image-embedding network, and believe the number."
    )
    parser.add_argument("--version", action="version", version=f"dmkd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    _discover(command)
    _work(command)
    _results(command)
    return parser


Add = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]


def _discover(command: Add) -> None:
    for name, run, text in (
        ("methods", methods, "every method and preset: paper, teacher, gallery, hyper-parameters with default and range"),
        ("datasets", datasets, "every data set and its expected layout"),
    ):
        command(name, run, text).add_argument("--json", action="store_true")
    prepare_ = command("prepare", prepare, "check a data set's folder: what was found, what is missing, what is broken")
    prepare_.add_argument("name", metavar="NAME")
    prepare_.add_argument("--root", default="", help="its folder; default: $DMKD_DATA/NAME")
    prepare_.add_argument("--json", action="store_true")


def _work(command: Add) -> None:
    train_ = command("train", train, "one trial of the shared trainer, without a tracker")
    train_.add_argument("config", metavar="CONFIG.yaml")
    train_.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, as in method.temperature=0.5"
    )
    train_.add_argument("--out", default="dmkd-output/train", help="folder for state, checkpoint, metrics (default: %(default)s)")
    train_.add_argument("--resume", action="store_true", help="go on from the state in --out")
    evaluate_ = command("evaluate", evaluate, "measure a checkpoint: symmetric, asymmetric, at several query resolutions")
    evaluate_.add_argument(
        "--checkpoint", required=True, metavar="REF", help="a folder, runs:/ID, models:/NAME@ALIAS, a leaderboard row"
    )
    evaluate_.add_argument(
        "--gallery", default="", metavar="REF", help="the network that embeds the gallery; default: the checkpoint's own"
    )
    evaluate_.add_argument("--dataset", default="", metavar="NAME", help="default: the one in the checkpoint's config.yaml")
    evaluate_.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of data.* or evaluation.*"
    )
    evaluate_.add_argument("--split", choices=("val", "test"), default="test")
    evaluate_.add_argument("--query-resolution", type=int, nargs="+", default=[], metavar="N")
    evaluate_.add_argument("--json", action="store_true")
    _tracked(evaluate_)


def _results(command: Add) -> None:
    board = command("leaderboard", leaderboard, "the ranking of configurations, over their seeds, from the tracker")
    board.add_argument("--experiment", default=None, metavar="E", help="default: the one with the newest run")
    board.add_argument("--select", default=None, metavar="val/M", help="rank by this (default: val/recall_at_1)")
    board.add_argument("--report", default=None, metavar="test/M", help="report this (default: the selection's name on test)")
    board.add_argument("--group-by", default="configuration", metavar="KEY")
    board.add_argument("--format", choices=("table", "md", "csv", "json"), default="table")
    _tracked(board)
    pull_ = command("pull", pull, "download a checkpoint for deployment, verified")
    pull_.add_argument("ref", metavar="REF", help="runs:/ID, models:/NAME@ALIAS, or a leaderboard row")
    pull_.add_argument("--to", required=True, metavar="DIR")
    _tracked(pull_)
    promote_ = command("promote", promote, "register a row's checkpoint as a version of a model and move its alias")
    promote_.add_argument("row", metavar="ROW")
    promote_.add_argument("--as", dest="name", required=True, metavar="NAME")
    promote_.add_argument("--alias", default="champion")
    _tracked(promote_)
    rollback_ = command("rollback", rollback, "move a model's alias back to the version before")
    rollback_.add_argument("name", metavar="NAME")
    rollback_.add_argument("--alias", default="champion")
    _tracked(rollback_)
    sync_ = command("sync", sync, "send what was spooled while the tracking server was away")
    sync_.add_argument("--spool", default="", metavar="DIR", help="where runs were spooled (default: this user's spool folder)")


def _tracked(parser: argparse.ArgumentParser) -> None:
    uri = os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_TRACKING)
    parser.add_argument(
        "--tracking-uri", default=uri, metavar="URI", help="default: $MLFLOW_TRACKING_URI, or sqlite:///mlflow.db here"
    )


def methods(options: argparse.Namespace) -> None:
    """Print every method and preset."""
    from dmkd.catalog import method_lines, method_rows

    print(json.dumps(method_rows(), indent=2) if options.json else "\n".join(method_lines()))


def datasets(options: argparse.Namespace) -> None:
    """Print every data set."""
    from dmkd.catalog import dataset_lines, dataset_rows

    print(json.dumps(dataset_rows(), indent=2) if options.json else "\n".join(dataset_lines()))


def prepare(options: argparse.Namespace) -> None:
    """Check a data set's folder."""
    from dmkd.catalog import prepare_report

    report, lines = prepare_report(options.name, options.root)
    print(json.dumps(report, indent=2, default=str) if options.json else "\n".join(lines))
    if not report["ok"]:
        sys.exit(1)


def train(options: argparse.Namespace) -> None:
    """Train one configuration into a folder."""
    from dmkd import config as configs
    from dmkd.run import train_into
    from dmkd.space import override

    config = override(configs.load(options.config), configs.parse_assignments(options.set))
    for epoch in train_into(config, Path(options.out), resume=options.resume):
        for term in config.method.inactive_terms(epoch.training.plan) if epoch.number == 1 else ():
            print(f"note: {term} can never become active in {epoch.training.plan.iterations} steps", file=sys.stderr)
        scores = {key: value for key, value in epoch.metrics.items() if not key.startswith("cost/")}
        print(
            f"epoch {epoch.number}/{config.optim.epochs}  " + "  ".join(f"{key} {value:.4f}" for key, value in scores.items()),
            flush=True,
        )
    print(f"checkpoint in {options.out}/checkpoint; measure it again: dmkd evaluate --checkpoint {options.out}/checkpoint")


def evaluate(options: argparse.Namespace) -> None:
    """Measure a checkpoint again."""
    from dmkd import config as configs
    from dmkd.run import evaluate_checkpoint

    changes = configs.parse_assignments(options.set)
    if options.dataset:
        changes = {"data.name": options.dataset, "data.root": ""} | changes
    scores = evaluate_checkpoint(
        _folder(options.checkpoint, options.tracking_uri),
        gallery=_folder(options.gallery, options.tracking_uri) if options.gallery else None,
        changes=changes,
        split=options.split,
        resolutions=options.query_resolution,
    )
    _print_scores(scores, options.json)


def _print_scores(scores: Mapping[str, float], as_json: bool) -> None:
    if as_json:
        print(json.dumps(dict(scores), indent=2))
        return
    for name, value in scores.items():
        print(f"{name:48s} {value:.6f}")


def _folder(ref: str, uri: str) -> Path:
    """The local folder of a REF: itself, or a verified copy in a temporary folder that ends with the process."""
    if Path(ref).is_dir():
        return Path(ref)
    import atexit
    import shutil
    import tempfile

    from tracking.registry import pull as pull_ref

    folder = Path(tempfile.mkdtemp(prefix="dmkd-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pull_ref(ref, folder / "checkpoint", uri=uri)


def leaderboard(options: argparse.Namespace) -> None:
    """Print the ranking."""
    from tracking.show import show

    asked = {"select_by": options.select, "report": options.report, "group_by": options.group_by, "form": options.format}
    print(show(options.tracking_uri, options.experiment, **asked))


def pull(options: argparse.Namespace) -> None:
    """Download a checkpoint."""
    from tracking.registry import pull as pull_ref

    folder = pull_ref(options.ref, options.to, uri=options.tracking_uri)
    print(f"{folder}: weights verified. Measure it again: dmkd evaluate --checkpoint {folder}")


def promote(options: argparse.Namespace) -> None:
    """Register a row's checkpoint."""
    from tracking.places import absolute_uri
    from tracking.registry import promote as promote_row
    from tracking.registry import run_of

    version = promote_row(
        run_of(options.row, absolute_uri(options.tracking_uri)), options.name, options.alias, options.tracking_uri
    )
    print(f"models:/{options.name}@{options.alias} is now version {version}")


def rollback(options: argparse.Namespace) -> None:
    """Move an alias one step back."""
    from tracking.registry import rollback as roll

    version = roll(options.name, alias=options.alias, uri=options.tracking_uri)
    print(f"models:/{options.name}@{options.alias} is again version {version}")


def sync(options: argparse.Namespace) -> None:
    """Deliver the spool."""
    from tracking.runs import sync as deliver

    done = deliver(options.spool or None)
    print(f"{done.delivered} runs delivered to the tracking server")
    if done.waiting:
        print("\n".join(done.waiting), file=sys.stderr)
        sys.exit(1)
