"""The console script `medpipe`: parse, call one function, print the path of what it made.

The last line on stdout is the path of the record; everything for a person goes to stderr. Exit status: 0 done,
1 something failed, 2 wrong input, 3 a gate said no or consent is missing, 130 stopped by the person.

`python -m flows.refresh` takes the same flags: it calls `run_arguments(parser)` and `recipe_from(namespace)`, runs
under `guarded(work, debug)`, and ends with `ending(release, workspace)`, all four to be had from here.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from medpipe import cli_consent
from medpipe import cli_verbs as verbs
from medpipe.cli_errors import guarded
from medpipe.cli_flags import SETTINGS_FLAGS, Parser, as_flags, debug_argument, recipe_from, run_arguments, settings_arguments
from medpipe.errors import GateFailed
from medpipe.records import Record

__all__ = ["ending", "guarded", "main", "recipe_from", "run_arguments"]

CHAIN = """
  source ──deidentify──▶ Collection ──preprocess──▶ Dataset ──train──▶ Checkpoint
                                                       │                  │
                                                       │              generate
                                                       ▼                  ▼
                           Release ◀──release── Report ◀──validate── Cohort
"""
FIRST = """Begin with
  medpipe demo                                   the whole chain on a made-up hospital, a few minutes
  medpipe recipe --list                          the recipes that medpipe carries
  medpipe run --recipe NAME --source PATH --out WORKSPACE --dry-run

Exit status: 0 done · 1 something failed · 2 wrong input · 3 a gate said no, or consent is missing.
The last line on stdout is the path made.
"""
Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; without `argv`, as the program that the person started."""
    if argv is None:
        signal.signal(signal.SIGTERM, _stop)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a spinning thread halves training where cores are shared
    arguments = parser().parse_args(argv)
    command: Command = arguments.command
    return guarded(lambda: command(arguments), arguments.debug)


def _stop(number: int, frame: object) -> None:
    """End on SIGTERM as on Ctrl-C: workers are let go, and the person is told how to go on."""
    raise KeyboardInterrupt


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = Parser(prog="medpipe", description="From a hospital's images to a synthetic cohort that may be shared.\n" + CHAIN, epilog=FIRST)
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = _command(commands, "demo", _demo, "the whole chain on the phantom hospital", "[--out DIR] [--prefect]")
    demo.add_argument("--out", type=Path, default=Path("medpipe-demo"), metavar="DIR", help="folder to write (default medpipe-demo)")
    demo.add_argument("--recipe", default="demo", metavar="NAME|FILE", help="a recipe for the phantom hospital (default demo)")
    demo.add_argument("--dry-run", action="store_true", help="write the hospital, then print what would be done")
    settings_arguments(demo)

    run = _command(commands, "run", _run, "the whole chain on your images", "--recipe NAME|FILE --source PATH --out WORKSPACE [--key FILE]")
    run_arguments(run)
    for chain in (demo, run):
        chain.add_argument("--prefect", action="store_true", help="run as a Prefect flow, to be seen in the Prefect UI")

    phantom = _command(
        commands, "phantom", verbs.phantom, "write the phantom hospital's DICOM export", "DIR [--patients N] [--seed N]", False
    )
    phantom.add_argument("folder", type=Path, metavar="DIR", help="new or empty folder to write")
    phantom.add_argument("--patients", type=_count, default=160, metavar="N", help="patients in the hospital (default 160)")
    phantom.add_argument("--seed", type=_seed, default=0, metavar="N", help="another seed is another hospital (default 0)")

    images = "make a Collection of DICOM files or an .npz"
    _verb(commands, "deidentify", verbs.deidentify, images, ("source",), ("source", "deid", "consent", "compute"))
    _verb(commands, "preprocess", verbs.preprocess, "make a Dataset of a Collection", ("collection",), ("source", "images", "compute"))
    of_training = ("model", "autoencoder", "train", "distill", "consent", "compute")
    _verb(commands, "train", verbs.train, "train a denoiser on a Dataset", ("dataset",), of_training)
    _verb(commands, "generate", verbs.generate, "sample a Cohort from a Checkpoint", ("checkpoint",), ("cohort", "compute"))
    _verb(commands, "validate", verbs.validate, "judge a Cohort against a Dataset", ("cohort", "dataset"), ("gates", "compute"))
    shared = "write the shareable folder of a Cohort that passed"
    _verb(commands, "release", verbs.release, shared, ("cohort", "report"), ("release", "consent"))

    _judgements(commands)

    verify = _command(commands, "verify", verbs.verify, "digest a record or release and its chain again", "PATH [--public-key FILE]", False)
    verify.add_argument("path", type=Path, metavar="PATH", help="a record's folder or a release folder")
    verify.add_argument("--public-key", type=Path, metavar="FILE", help="key that must have signed the release")

    medium = "copy a Collection of DICOM as a PS3.10 file-set with a DICOMDIR, as viewers and media want it"
    export = _command(commands, "export", verbs.export, medium, "COLLECTION OUT", False)
    export.add_argument("collection", type=Path, metavar="COLLECTION", help="folder of a Collection made of DICOM")
    export.add_argument("out", type=Path, metavar="OUT", help="new folder for the file-set")

    cli_consent.commands(commands)

    recipe = _command(commands, "recipe", verbs.recipe, "print the resolved recipe as YAML", "[--recipe NAME|FILE] [--list]")
    recipe.add_argument("--recipe", metavar="NAME|FILE", help="a recipe by name or a YAML file (default: every default)")
    recipe.add_argument("--list", action="store_true", help="list the recipes that medpipe carries")
    settings_arguments(recipe)
    return top


def _judgements(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add what judges images beyond the chain: those of others, and several methods side by side."""
    audit = _command(
        commands,
        "audit",
        verbs.audit,
        "judge synthetic images that others made, by the same gates",
        "CANDIDATES --dataset DATASET --out DIR",
    )
    form = "an .npz file (images, labels), a Zarr store, a release, or a folder of PNG, DICOM or NIfTI files"
    audit.add_argument("candidates", type=Path, metavar="CANDIDATES", help=form)
    audit.add_argument(
        "--dataset", required=True, type=Path, metavar="DATASET", help="folder of the Dataset of real images to judge against"
    )
    audit.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write: report.html, evidence.json, images.parquet")
    audit.add_argument("--self-test", action="store_true", help="also print what the gates catch: planted copies and spoiled cohorts")
    audit.add_argument("--recipe", metavar="NAME|FILE", help="a recipe by name or a YAML file (default: every default)")
    settings_arguments(audit, shown=("gates", "compute"))

    internal = "write an internal page with the most suspicious synthetic images beside real ones; it is never to be shared"
    neighbours = _command(commands, "neighbours", verbs.neighbours, internal, "COHORT DATASET REPORT OUT.html [--count N]", False)
    for name in ("cohort", "dataset", "report"):
        neighbours.add_argument(name, type=Path, metavar=name.upper(), help=f"folder of the {name.capitalize()}")
    neighbours.add_argument("out", type=Path, metavar="OUT.html", help="page to write, outside every record and release")
    neighbours.add_argument("--count", type=_count, default=24, metavar="N", help="synthetic images to show (default 24)")

    compare = _command(
        commands, "compare", verbs.compare, "train and judge several methods on one Dataset", "DATASET OUT [--methods NAME ...]"
    )
    compare.add_argument("dataset", type=Path, metavar="DATASET", help="folder of the Dataset")
    compare.add_argument(
        "out", type=Path, metavar="OUT", help="folder to write: comparison.html, comparison.json, and each method's records"
    )
    compare.add_argument(
        "--methods", nargs="+", default=["diffusion", "gan", "vae"], metavar="NAME", help="diffusion, gan, vae (default: all)"
    )
    compare.add_argument("--recipe", metavar="NAME|FILE", help="a recipe by name or a YAML file (default: every default)")
    settings_arguments(compare, shown=("model", "train", "cohort", "gates", "compute"))


def _command(
    commands: argparse._SubParsersAction[Parser], name: str, command: Command, what: str, usage: str, settings: bool = True
) -> Parser:
    """Add one command; those with settings get a usage line that does not list all of them."""
    tail = " [--section.field VALUE ...]" if settings else ""
    epilog = SETTINGS_FLAGS if settings else None
    made = commands.add_parser(
        name, help=what, description=what[0].upper() + what[1:] + ".", usage=f"medpipe {name} {usage}{tail}", epilog=epilog
    )
    made.set_defaults(command=command)
    if name != "run":  # run_arguments brings it, for flows.refresh has it too
        debug_argument(made)
    return made


def _verb(
    commands: argparse._SubParsersAction[Parser],
    name: str,
    command: Command,
    what: str,
    inputs: tuple[str, ...],
    sections: tuple[str, ...],
) -> None:
    """Add one verb from record to record: its inputs, OUT, a key where it needs one, and its settings."""
    keyed = name in ("deidentify", "release")
    usage = " ".join(part.upper() for part in (*inputs, "out")) + (" --key FILE" if keyed else "") + " [--recipe NAME|FILE]"
    verb = _command(commands, name, command, what, usage)
    for part in inputs:
        text = "folder of DICOM files, or an .npz file of arrays" if part == "source" else f"folder of the {part.capitalize()}"
        verb.add_argument(part, type=Path, metavar=part.upper(), help=text)
    verb.add_argument("out", type=Path, metavar="OUT", help="folder of the record to make; an unfinished one is gone on with")
    if name == "deidentify":
        text = "Collection made of this source before: what has not changed since is taken from it"
        verb.add_argument("--earlier", type=Path, metavar="COLLECTION", help=text)
    if name == "train":
        text = "Checkpoint of this Dataset, to make a student of it that samples in few evaluations (distill.*)"
        verb.add_argument("--teacher", type=Path, metavar="CHECKPOINT", help=text)
    if name == "generate":
        text = "Dataset of the Checkpoint, or folder with images.zarr, .npy or .png files, for a model with masks"
        verb.add_argument("--masks", type=Path, metavar="PATH", help=text)
        verb.add_argument("--weaker", type=Path, metavar="CHECKPOINT", help="weaker Checkpoint of the same Dataset, to guide away from")
    if keyed:
        secret = "pseudonym" if name == "deidentify" else "signing"
        verb.add_argument("--key", required=True, type=Path, metavar="FILE", help=f"{secret} key, made where absent")
    if name in ("deidentify", "train", "release"):
        default = "beside the key" if name == "deidentify" else "of the workspace"
        verb.add_argument("--ledger", type=Path, metavar="FILE", help=f"consent ledger (default: consent.jsonl {default}, if it is there)")
    if name == "validate":
        text = "Checkpoint that made the Cohort: the model is attacked as well, not the images alone"
        verb.add_argument("--checkpoint", type=Path, metavar="CHECKPOINT", help=text)
        verb.add_argument("--self-test", action="store_true", help="also print what the gates catch: planted copies and spoiled cohorts")
    verb.add_argument("--recipe", metavar="NAME|FILE", help="a recipe by name or a YAML file (default: every default)")
    settings_arguments(verb, shown=sections)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, not '{text}'")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"a whole number of at least 0 is needed, not '{text}'")
    return int(text)


def ending(release: Record, workspace: Path) -> None:
    """Show a finished run's verdicts, release and page on stderr, and print the release's path on stdout."""
    from medpipe import cli_show

    cli_show.ending(release, workspace)


def _demo(arguments: argparse.Namespace) -> int:
    from medpipe.sources import phantom

    arguments.source, workspace = arguments.out / "hospital", arguments.out / "workspace"
    if not (arguments.source / phantom.TABLE).exists():  # it is moved to its place when it is whole
        with verbs.workers(recipe_from(arguments)) as (executor, progress):
            phantom.write(arguments.source, progress=progress, executor=executor)
    arguments.out, arguments.key, arguments.signing_key, arguments.ledger = workspace, None, None, None
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    recipe = recipe_from(arguments)
    if arguments.prefect and not arguments.dry_run:
        return _through_prefect(arguments)
    from medpipe import chain, cli_show
    from medpipe.plan import plan

    workspace: Path = arguments.out
    keys = chain.keys(workspace, arguments.key, arguments.signing_key, arguments.ledger)
    if arguments.dry_run:
        cli_show.console().print(cli_show.plan(plan(arguments.source, workspace, recipe, keys), workspace))
        return 0
    try:
        with verbs.workers(recipe) as (executor, progress):
            made = chain.run(arguments.source, workspace, recipe, keys, executor=executor, progress=progress)
    except GateFailed as failure:
        if failure.report is not None:
            verbs.show_report(failure.report)
        raise
    ending(made, workspace)
    return 0


def _through_prefect(arguments: argparse.Namespace) -> int:
    """Start the flow as a process with the same flags: the library never imports Prefect. Forwards its exit status."""
    command = [sys.executable, "-m", "flows.refresh", "--recipe", str(arguments.recipe)]
    command += ["--source", str(arguments.source), "--out", str(arguments.out), *as_flags(arguments)]
    for flag, value in (("--key", arguments.key), ("--signing-key", arguments.signing_key), ("--ledger", arguments.ledger)):
        command += [] if value is None else [flag, str(value)]
    command += ["--debug"] if arguments.debug else []
    sys.stdout.flush()
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return process.wait()  # the flow got the same signal, and says itself how to go on


if __name__ == "__main__":
    sys.exit(main())
