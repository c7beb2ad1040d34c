"""One process of a training with many: `python -m medpipe.diffusion.rank SCRATCH`, as `launch` has torchrun start it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from medpipe import records
from medpipe.diffusion import launch
from medpipe.errors import MedpipeError
from medpipe.recipe import Recipe, build
from medpipe.records import Making

EVERY_S = 0.5


def main(scratch: Path) -> int:
    """Train as one of the processes; errors of ours are written down for the process that started all of them."""
    spec = json.loads((scratch / launch.SPEC).read_text())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(int(spec["parent"]),), daemon=True).start()
    if (scratch / launch.ERROR).exists() and json.loads((scratch / launch.ERROR).read_text())["ours"]:
        return 1
    try:
        _train(scratch, Path(spec["dataset"]), Path(spec["out"]), build(spec["recipe"]))
    except Exception as error:
        traceback.print_exc()
        ours = isinstance(error, MedpipeError)
        if ours or not (scratch / launch.ERROR).exists():
            records.write_json(scratch / launch.ERROR, {"ours": ours, "kind": type(error).__name__, "message": str(error) if ours else ""})
        return 1
    return 0


def _train(scratch: Path, dataset: Path, out: Path, recipe: Recipe) -> None:
    from medpipe.diffusion import device, distributed, duplicates
    from medpipe.diffusion.train import made_from, work
    from medpipe.images.dataset import Dataset
    from medpipe.progress import silent
    from medpipe.threads import threads

    def progress(what: str, done: int, total: int) -> None:
        records.write_json(scratch / launch.PROGRESS, [what, done, total])

    compute = recipe.compute
    share = max(1, compute.threads // compute.processes)
    joined = distributed.joined(compute.parallel, device.device(compute.device), one_node=compute.nodes == 1)
    with joined as world, threads(share):
        making = Making(out, made_from(dataset, recipe))
        data = duplicates.once(Dataset.open(dataset), recipe.train.deduplicate)
        work(data, making, recipe, world, progress if world.first else silent, duplicates.count(data))


def _end_with(parent: int) -> None:
    """End when the process that started all of this is gone: else its record would go on being written without its lock."""
    while True:
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            os._exit(1)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
