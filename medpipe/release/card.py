"""What a release says of itself in words: the dataset card, the licence notice and the citation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import yaml

from medpipe.consent import evidence
from medpipe.records import Record
from medpipe.release.charts import number
from medpipe.release.refill import Selection
from medpipe.settings import ReleaseSettings

READING = """\
import pandas as pd
import zarr
subjects = pd.read_parquet("subjects.parquet")
images = zarr.open_group("images.zarr", mode="r")["image"]
first = images[subjects["row"][0]]  # one image, shape {shape}, {dtype}
"""
"""The five lines of the card, run as they are by a test."""

LICENCES: Mapping[str, tuple[str, str]] = {
    "CC0-1.0": ("Creative Commons Zero 1.0 Universal", "https://creativecommons.org/publicdomain/zero/1.0/legalcode"),
    "CC-BY-4.0": ("Creative Commons Attribution 4.0 International", "https://creativecommons.org/licenses/by/4.0/legalcode"),
    "CC-BY-SA-4.0": (
        "Creative Commons Attribution-ShareAlike 4.0 International",
        "https://creativecommons.org/licenses/by-sa/4.0/legalcode",
    ),
    "CC-BY-NC-4.0": (
        "Creative Commons Attribution-NonCommercial 4.0 International",
        "https://creativecommons.org/licenses/by-nc/4.0/legalcode",
    ),
    "CC-BY-NC-SA-4.0": (
        "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International",
        "https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode",
    ),
    "ODbL-1.0": ("Open Data Commons Open Database License 1.0", "https://opendatacommons.org/licenses/odbl/1-0/"),
}
"""SPDX identifier to name and address of the legal text."""

MODALITIES = {
    "CR": "X-ray images",
    "DX": "X-ray images",
    "MG": "mammograms",
    "CT": "computed tomography images",
    "MR": "magnetic resonance images",
    "US": "ultrasound images",
    "PT": "positron emission tomography images",
    "NM": "nuclear medicine images",
    "OPT": "retinal tomography images",
    "OP": "eye photographs",
}

LIMITS = (
    "It is synthetic: never use it for diagnosis, and test what was trained on it on images of real patients.",
    "It shows what the model learned from one source: what is rare there is rarer here, and what is not there is absent.",
    "Labels and covariates are what each image was asked to show; no reader has confirmed them.",
    "The gates bound the risks that they measure at the stated sample sizes; they do not prove that there is no other risk.",
)


@dataclass(frozen=True)
class About:
    """Everything that the card, the croissant and the page say in common about a release."""

    settings: ReleaseSettings
    selection: Selection
    shape: Sequence[int]
    """(C, H, W) or (C, D, H, W)."""
    dtype: str
    classes: Sequence[str]
    covariates: Sequence[Mapping[str, Any]]
    spacing_mm: Sequence[float] | None
    modality: str | None
    source_licence: str
    model: Mapping[str, Any]
    """How the images were drawn: sampler, start, steps, guidance, composition."""
    verdicts: Sequence[Mapping[str, Any]]
    not_assessed: Sequence[Mapping[str, str]]
    key_fingerprint: str
    code: str
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    consent: Mapping[str, Any] = field(default_factory=dict)
    """How the patients' permission was checked, in the words of the Report."""

    @property
    def images(self) -> int:
        """Images in the release."""
        return len(self.selection.rows)

    @property
    def folder(self) -> str:
        return f"{self.settings.name}-{self.settings.version}"

    @property
    def decision(self) -> dict[str, str | None]:
        """Who let the cohort go: the gates, the person whom the recipe names, the key that signed."""
        person = line(self.settings.approved_by) if self.settings.approved_by else None
        named = f"{person} approved it." if person else "The recipe names nobody who approved it (release.approved_by)."
        return {
            "statement": f"All {len(self.verdicts)} gates passed, by bounds that the recipe set before the cohort was looked at. {named} "
            f"{line(self.settings.creator)} released it with the key whose fingerprint is below.",
            "approved_by": person,
            "released_by": line(self.settings.creator),
            "signed_with": self.key_fingerprint,
        }

    @property
    def title(self) -> str:
        return line(self.settings.title)

    @property
    def licence_url(self) -> str | None:
        return LICENCES[self.settings.licence][1] if self.settings.licence in LICENCES else None


def about(
    cohort: Record,
    report: Mapping[str, Any],
    settings: ReleaseSettings,
    *,
    selection: Selection,
    key_fingerprint: str,
    fingerprints: Mapping[str, str],
) -> About:
    """Gather what is said in common from the Cohort's facts and the Report."""
    facts, dataset = cohort.facts, report.get("dataset", {})
    return About(
        settings=settings,
        selection=selection,
        shape=list(facts["shape"]),
        dtype=str(facts["dtype"]),
        classes=[str(name) for name in facts.get("classes") or []],
        covariates=list(facts.get("covariates") or []),
        spacing_mm=facts.get("spacing_mm"),
        modality=facts.get("modality") or dataset.get("modality"),
        source_licence=line(str(dataset.get("licence") or facts.get("licence") or "not stated")),
        model={name: facts[name] for name in ("sampler", "start", "steps", "guidance", "composition") if name in facts},
        verdicts=list(report["verdicts"]),
        not_assessed=list(report.get("not_assessed", [])),
        key_fingerprint=key_fingerprint,
        code=str(cohort.made_from["code"]),
        fingerprints=fingerprints,
        consent=report.get("consent") or evidence(None, 0),
    )


def line(text: str) -> str:
    """Bring free text of a recipe onto one line, so that it cannot open a heading or a front matter of its own."""
    return " ".join(text.split())


def shortfall(verdict: Mapping[str, Any]) -> str:
    """Say in what a failed gate fell short: value and bound, or the interval where that is what decided."""
    value, bound = verdict["value"], verdict["bound"]
    if value is None or bound is None:
        return f"could not be measured, and must be {verdict['direction']} {number(bound)}"
    if value <= bound if verdict["direction"] == "at most" else value >= bound:
        end = number(verdict["high"] if verdict["direction"] == "at most" else verdict["low"], 4)
        return f"is {number(value, 4)} with a 95 % interval that reaches {end}, and must be {verdict['direction']} {number(bound, 4)}"
    return f"is {number(value, 4)} and must be {verdict['direction']} {number(bound, 4)}"


def kind_of_images(modality: str | None) -> str:
    """Say what kind of images a DICOM Modality (PS3.3 C.7.3.1.1.1) is, in words that a person outside radiology knows."""
    return f"{MODALITIES[modality]} ({modality})" if modality in MODALITIES else f"{modality} images" if modality else "medical images"


def description(about: About) -> str:
    """Say in one sentence what the cohort is."""
    size = " × ".join(str(side) for side in about.shape[1:])
    classes = f" in {len(about.classes)} classes ({', '.join(about.classes)})" if len(about.classes) > 1 else ""
    return (
        f"{about.images:,} synthetic {kind_of_images(about.modality)} of {size} pixels{classes}, "
        "drawn by a diffusion model that learned from de-identified images. "
        "Synthetic, not for diagnosis."
    )


def readme(about: About, masks: bool = False) -> str:
    """Write the dataset card: YAML front matter as dataset hubs read it, then Markdown."""
    front = {
        "pretty_name": about.title,
        "license": about.settings.licence.lower() if about.licence_url else "other",
        "tags": ["synthetic", "medical-imaging", "not-for-diagnosis", *([about.modality.lower()] if about.modality else [])],
        "size_categories": [_size(about.images)],
        **({"task_categories": ["image-classification"]} if about.classes else {}),
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medpipe.release", "."), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # Markdown is not HTML: `cell` escapes what would break a table
    environment.filters.update(number=number, cell=lambda text: line(str(text)).replace("|", "\\|"))
    return environment.get_template("README.md.j2").render(
        about=about,
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        description=description(about),
        reading=READING.format(shape=tuple(about.shape), dtype=about.dtype),
        limits=LIMITS,
        masks=masks,
        licence=line(licence_sentence(about)),
    )


def licence_sentence(about: About) -> str:
    """Name the licence, and where its text is."""
    spdx = line(about.settings.licence)
    if spdx in LICENCES:
        name, url = LICENCES[spdx]
        return f"{name} (SPDX: {spdx}). The legal text at {url} applies."
    return f"'{spdx}'. Its terms are those that {line(about.settings.creator)} states; ask {line(about.settings.contact)} for them."


def licence(about: About) -> str:
    """Write the LICENSE file: the notice, and the licence of the images that the model learned from."""
    return (
        f"{about.title}, version {about.settings.version}\n"
        f"Released by {line(about.settings.creator)}\n\n"
        f"SPDX-License-Identifier: {line(about.settings.licence)}\n\n"
        f"This cohort is licensed under {licence_sentence(about)}\n\n"
        f"Licence of the images that the model learned from: {about.source_licence}.\n"
        "Those images are not part of this cohort. Whether their licence reaches what was learned from them is for the releasing\n"
        "institution to decide; it is stated here so that a reader can.\n\n"
        "Synthetic, not for diagnosis.\n"
    )


def citation(about: About) -> str:
    """Write CITATION.cff (Citation File Format 1.2.0)."""
    settings = about.settings
    text: dict[str, Any] = {
        "cff-version": "1.2.0",
        "message": "If you use this synthetic cohort, please cite it as below.",
        "type": "dataset",
        "title": about.title,
        "version": settings.version,
        "authors": [{"name": line(settings.creator)}],
        "abstract": description(about),
        "keywords": ["synthetic", "medical imaging"],
    }
    if about.licence_url:
        text["license"] = settings.licence
    if settings.published:
        text["date-released"] = settings.published.isoformat()
    return yaml.safe_dump(text, sort_keys=False, allow_unicode=True, width=120)


def _size(images: int) -> str:
    """Return the size category as dataset hubs name it."""
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if images < limit:
            return name
    return "n>1M"
