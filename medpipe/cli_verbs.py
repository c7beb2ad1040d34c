"""What each command of the console script does: call one function, show what came of it, return the exit status.

The whole chain (`run`, `demo`) is in `cli`, beside the parser.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

from medpipe import recipe as recipes
from medpipe.cli_flags import recipe_from
from medpipe.errors import GateFailed, InputError, RecordError
from medpipe.ledger import named
from medpipe.progress import Progress, bars
from medpipe.recipe import Recipe
from medpipe.records import Record


@contextmanager
def workers(recipe: Recipe) -> Iterator[tuple[Executor | None, Progress]]:
    """Give the worker processes of the recipe and the progress bars."""
    from medpipe.parallel import processes

    if recipe.compute.scheduler:
        raise InputError("compute.scheduler needs 'medpipe run --prefect': without Prefect the work stays on this machine")
    with bars() as progress, processes(recipe.compute.workers) as executor:
        yield executor, progress


def show_report(path: Path, *, self_test: bool = False) -> None:
    """Show the verdicts of a Report, and what its gates were seen to catch where asked."""
    from medpipe import cli_show, records

    report = records.load(path, "Report")
    cli_show.console().print(cli_show.verdicts(report))
    for table in cli_show.self_test(report) if self_test else ():
        cli_show.console().print(table)


def phantom(arguments: argparse.Namespace) -> int:
    """Write the phantom hospital."""
    from medpipe.sources import phantom

    with bars() as progress:
        phantom.write(arguments.folder, patients=arguments.patients, seed=arguments.seed, progress=progress)
    print(arguments.folder)
    return 0


def done(record: Record) -> int:
    """Show a finished record, its path last."""
    from medpipe import cli_show

    cli_show.result(record)
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write the file-set of a Collection."""
    from medpipe.deid import media

    print(media.write(arguments.collection, arguments.out))
    return 0


def deidentify(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from medpipe.deid.deidentify import deidentify

    recipe = recipe_from(arguments)
    with workers(recipe) as (executor, progress):
        place = arguments.source, arguments.out, recipe
        files = {"key_file": arguments.key, "ledger_file": named(arguments.ledger), "earlier": arguments.earlier}
        return done(deidentify(*place, **files, executor=executor, progress=progress))


def preprocess(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from medpipe.images.preprocess import preprocess

    recipe = recipe_from(arguments)
    with workers(recipe) as (executor, progress):
        return done(preprocess(arguments.collection, arguments.out, recipe, executor=executor, progress=progress))


def train(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from medpipe import cli_show, records
    from medpipe.diffusion.networks import planned
    from medpipe.diffusion.train import train

    recipe = recipe_from(arguments)
    said = False

    def announced(what: str, done: int, total: int) -> None:
        """Show what the network costs when training begins, which is after everything that may be refused."""
        nonlocal said
        if not said and arguments.teacher is None:
            facts = records.load(arguments.dataset, "Dataset").facts
            cli_show.console().print(f"{recipe.model.network}: {planned(recipe, facts)}")
        said = True
        progress(what, done, total)

    with bars() as progress:
        given = {"teacher": arguments.teacher, "ledger_file": named(arguments.ledger)}
        record = train(arguments.dataset, arguments.out, recipe, **given, progress=announced)
    cli_show.console().print(cli_show.trained(record), soft_wrap=True)
    return done(record)


def generate(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from medpipe.cohort.generate import generate

    recipe = recipe_from(arguments)
    with workers(recipe) as (executor, progress):
        given = {"masks": arguments.masks, "weaker": arguments.weaker}
        return done(generate(arguments.checkpoint, arguments.out, recipe, **given, executor=executor, progress=progress))


def validate(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from medpipe.gates.validate import validate

    recipe = recipe_from(arguments)
    with workers(recipe) as (executor, progress):
        given = arguments.cohort, arguments.dataset, arguments.out, recipe
        report = validate(*given, checkpoint=arguments.checkpoint, executor=executor, progress=progress)
    show_report(report.path, self_test=arguments.self_test)
    done(report)
    return 0 if report.facts["passed"] else GateFailed.exit_status


def audit(arguments: argparse.Namespace) -> int:
    """Judge other people's images."""
    from medpipe.gates.audit import audit

    recipe = recipe_from(arguments)
    with workers(recipe) as (executor, progress):
        done = audit(arguments.candidates, arguments.dataset, arguments.out, recipe, executor=executor, progress=progress)
    show_report(done.report.path, self_test=arguments.self_test)
    print(f"{done.withheld} of {done.candidates} candidates are withheld", file=sys.stderr)
    print(done.folder, flush=True)
    return 0 if done.passed else GateFailed.exit_status


def neighbours(arguments: argparse.Namespace) -> int:
    """Write the internal page of synthetic images beside their nearest real ones."""
    from medpipe.gates.neighbours import neighbours

    print(neighbours(arguments.cohort, arguments.dataset, arguments.report, arguments.out, count=arguments.count), flush=True)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Compare methods."""
    from medpipe import cli_show
    from medpipe.comparison import PAGE, compare

    recipe = recipe_from(arguments)
    with workers(recipe) as (executor, progress):
        done = compare(arguments.dataset, arguments.out, recipe, methods=arguments.methods, executor=executor, progress=progress)
    cli_show.console().print(cli_show.comparison(done.rows))
    print(done.folder / PAGE, flush=True)
    return 0


def release(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from medpipe.release.release import release

    recipe = recipe_from(arguments)
    with bars() as progress:
        files = {"key_file": arguments.key, "ledger_file": named(arguments.ledger)}
        return done(release(arguments.cohort, arguments.report, arguments.out, recipe, **files, progress=progress))


def verify(arguments: argparse.Namespace) -> int:
    """Digest a record or release, and what it came from, again."""
    from medpipe import cli_show
    from medpipe.verify import chain_of

    links = chain_of(arguments.path, arguments.public_key)
    cli_show.console().print(cli_show.links(links))
    wrong = [f"{link.what}: {problem}" for link in links for problem in link.problems]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise RecordError(f"{wrong[0]}{more}: it is not what was sealed, so make it again, or fetch it again")
    print(arguments.path)
    return 0


def recipe(arguments: argparse.Namespace) -> int:
    """Print a recipe, or the names of all."""
    if arguments.list:
        from medpipe import cli_show

        cli_show.console().print(cli_show.recipe_list())
        print("\n".join(recipes.names()))
        return 0
    sys.stdout.write(recipes.dump(recipe_from(arguments)))
    return 0
