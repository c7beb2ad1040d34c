"""Judging synthetic images that others made, as a flow."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.outcome import spoken
from medpipe.recipe import Recipe
from tasks import stages


@flow(name="audit", flow_run_name="audit {recipe.name}", persist_result=False)
@spoken
def audit(candidates: Path, dataset: Path, out: Path, recipe: Recipe) -> Path:
    """Judge anyone's synthetic images against a Dataset by every gate that applies; a gate that says no is in the report.

    Args:
        candidates: An .npz file (images, labels), a Zarr store, a release, or a folder of PNG, DICOM or NIfTI files.
        dataset: Folder of the Dataset of real images to judge against.
        out: Folder to write: report.html, evidence.json, and images.parquet with one row per candidate.
        recipe: Every setting of the run; the sentence under a field says what it does.
    """
    return stages.audit(candidates, dataset, out, recipe)
