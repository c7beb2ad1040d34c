"""The release as Croissant 1.1 metadata, with the responsible-AI terms, so that dataset search and loaders read it.

Written by hand from the specification rather than through a library, so that the bytes are ours and do not change.
Source: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html and croissant-rai-spec.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api import types

from medpipe import records
from medpipe.release.card import LIMITS, About, description, line

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The standard context of Croissant 1.1."""

FILES = (
    ("subjects.parquet", "application/x-parquet", "One row per synthetic subject: id, row in the arrays, conditions, split."),
    ("evidence.json", "application/json", "Every gate with its value, interval, bound and verdict; what was not assessed."),
    ("report.html", "text/html", "The evidence as one page for people."),
    ("provenance.json", "application/json", "Digests of what the cohort was made from, software version, seeds."),
)
_FIELDS = {
    "id": "Identifier of the synthetic subject.",
    "row": "Place of the subject's image in the arrays of images.zarr.",
    "label": "Class that the image was asked to show.",
    "split": "Part of the cohort that is meant for training.",
}


def croissant(folder: Path, about: About) -> dict[str, Any]:
    """Describe the release in `folder`, whose files are all written but this one and the checksums."""
    settings = about.settings
    text: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": settings.name,
        "alternateName": about.title,
        "description": description(about),
        "version": settings.version,
        "license": about.licence_url or line(settings.licence),
        "creator": {"@type": "sc:Organization", "name": line(settings.creator)},
        "citeAs": f"{line(settings.creator)}: {about.title}, version {settings.version}. Synthetic image cohort.",
        "keywords": ["synthetic", "medical imaging", "not for diagnosis"],
        "isLiveDataset": False,
        "rai:hasSyntheticData": True,
        "rai:dataCollection": "Sampled from a conditional diffusion model; no image was acquired from a person for this dataset.",
        "rai:dataCollectionType": ["Synthetic"],
        "rai:dataUseCases": [
            "Developing, training and teaching image analysis; not for diagnosis, not for measuring performance on patients."
        ],
        "rai:dataLimitations": list(LIMITS),
        "rai:dataBiases": ["The biases of the source population are learned, and rare appearances may be rarer than in the source."],
        "rai:personalSensitiveInformation": [
            "No image of a person. How near images come to training images was measured: see evidence.json, also for what was not assessed."
        ],
        "distribution": [_file(folder, *entry) for entry in FILES] + [_arrays()],
        "recordSet": [_subjects(folder)],
    }
    if settings.published:
        text["datePublished"] = settings.published.isoformat()
    return text


def _file(folder: Path, name: str, encoding: str, meaning: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": meaning,
        "contentUrl": name,
        "contentSize": f"{(folder / name).stat().st_size} B",
        "encodingFormat": encoding,
        "sha256": records.file_digest(folder / name),
    }


def _arrays() -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": "images.zarr",
        "name": "images.zarr",
        "description": "Sharded Zarr v3 group of the images; checksums of its files are in SHA256SUMS.",
        "encodingFormat": "application/vnd+zarr",
        "includes": "images.zarr/**",
    }


def _subjects(folder: Path) -> dict[str, Any]:
    table = pd.read_parquet(folder / "subjects.parquet")
    return {
        "@type": "cr:RecordSet",
        "@id": "subjects",
        "name": "subjects",
        "description": "The synthetic subjects.",
        "key": {"@id": "subjects/id"},
        "field": [_field(str(name), table[name]) for name in table.columns],
    }


def _field(name: str, column: pd.Series[Any]) -> dict[str, Any]:
    kind = "sc:Integer" if types.is_integer_dtype(column) else "sc:Float" if types.is_float_dtype(column) else "sc:Text"
    return {
        "@type": "cr:Field",
        "@id": f"subjects/{name}",
        "name": name,
        "description": _FIELDS.get(name, "What the image was conditioned on."),
        "dataType": kind,
        "source": {"fileObject": {"@id": "subjects.parquet"}, "extract": {"column": name}},
    }
