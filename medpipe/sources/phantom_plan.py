"""The plan of the phantom hospital: who is ill, since when, and how each image is taken. Pure, and the ground truth.

Nothing here is a pixel or a file. A patient's plan depends only on (seed, index), so that patients can be written in any
order, and the first n patients of a larger hospital are the patients of the smaller one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date, timedelta

import numpy as np

from medpipe.seeds import child, generator
from medpipe.sources.phantom_people import CANARY, Person, person, physician
from medpipe.sources.phantom_truth import CORNERS, SCANNERS, SITES, Body, Finding, ImagePlan, Lesion, PatientPlan, Pose, Side, StudyPlan

LAST_DAY = date(2023, 12, 31)
GOLDEN = 0.6180339887498949


def plan(patients: int, seed: int = 0) -> list[PatientPlan]:
    """Return the ground truth of a hospital of `patients` patients."""
    return [patient(index, seed) for index in range(patients)]


def probabilities(age: float, sex: str) -> dict[Finding, float]:
    """Return how likely a patient of this age (years) and sex ("M", "F") is to have, or get, each finding."""
    male = 1.0 if sex == "M" else 0.0
    mass = math.exp(-0.35 + 0.015 * (age - 58) + 0.7 * male)
    effusion = math.exp(0.05 + 0.045 * (age - 58) - 0.1 * male)
    total = 1 + mass + effusion
    return {"normal": 1 / total, "mass": mass / total, "effusion": effusion / total}


def identifiers(patient: PatientPlan) -> frozenset[str]:
    """Return strings that must be nowhere downstream: names, numbers, addresses.

    Dates are left out, since a shifted date may by chance equal another's, and so are name parts of under five letters.
    """
    who = patient.person
    names = "^".join((who.name.replace("=", "^"), who.printed_name.replace(", ", "^"), who.birth_name))
    names += "".join(f"^{study.referring}^{study.performing}^{study.operator}" for study in patient.studies)
    parts = {part for part in names.split("^") if len(part) >= 5}
    return frozenset(
        parts | {who.mrn, who.other_id, who.insurance, who.address, who.phone} | {study.accession for study in patient.studies}
    )


def patient(index: int, seed: int) -> PatientPlan:
    """Return the plan of one patient."""
    rng = generator(seed, "phantom", "patient", index)
    home = 1 if _even(seed, "site", index) < 0.45 else 0
    first = LAST_DAY - timedelta(days=int(rng.integers(2200, 5200)))
    age = float(np.clip(rng.normal(58, 17), 21, 92))
    who = person(rng, index, SITES[home].issuer, SITES[1 - home].issuer, first - timedelta(days=round(age * 365.25)))
    sick = _finding(age, who.sex, _even(seed, "finding", index))
    body = _body(rng, who.sex, age)
    begin = 0 if rng.random() < 0.7 else 1  # three in ten are still well at their first visit
    lesion = _lesion(rng, sick, body)
    studies, day = [], first
    for number in range(int(rng.choice([2, 3, 4, 5, 6], p=[0.25, 0.3, 0.25, 0.12, 0.08]))):
        if number:
            day = min(day + timedelta(days=int(30 + rng.gamma(1.6, 260))), LAST_DAY - timedelta(days=6 - number))
        ill = sick != "normal" and number >= begin
        years = (day - first).days / 365.25
        studies.append(
            _study(rng, seed, index, number, who, home, day, body, sick if ill else "normal", _grown(lesion, sick, years) if ill else None)
        )
    return PatientPlan(index, child(seed, "phantom", "hospital") % 10**8, who, SITES[home], tuple(studies))


def _even(seed: int, what: str, index: int) -> float:
    """Evenly spread share in [0, 1): even a small hospital has its findings and sites in proportion (golden-ratio sequence)."""
    offset = child(seed, "phantom", what) / 2**63
    return (offset + index * (GOLDEN if what == "finding" else math.sqrt(2))) % 1.0


def _finding(age: float, sex: str, share: float) -> Finding:
    odds = probabilities(age, sex)
    if share < odds["normal"]:
        return "normal"
    return "mass" if share < odds["normal"] + odds["mass"] else "effusion"


def _body(rng: np.random.Generator, sex: str, age: float) -> Body:
    male = sex == "M"
    return Body(
        width=float(np.clip(rng.normal(0.395 if male else 0.368, 0.017), 0.32, 0.43)),
        apex=float(rng.normal(0.100, 0.012)),
        base=float(rng.normal(0.785, 0.022)),
        fat=float(np.clip(rng.gamma(2.2, 0.018), 0.004, 0.12)),
        heart=float(np.clip(rng.normal(1.0, 0.11), 0.78, 1.32)),
        rib_spacing=float(rng.normal(0.071, 0.003)),
        rib_slope=float(rng.normal(0.16, 0.025)),
        bone=float(np.clip(rng.normal(1.0 - 0.004 * (age - 50), 0.12), 0.55, 1.35)),
        curve=float(rng.normal(0, 0.012)),
        breast=0.0 if male else float(np.clip(rng.normal(0.6, 0.25), 0.15, 1.2)),
        pacemaker=bool(age > 65 and rng.random() < 0.12),
    )


def _lesion(rng: np.random.Generator, finding: Finding, body: Body) -> Lesion | None:
    side: Side = "L" if rng.random() < 0.45 else "R"
    if finding == "mass":
        lateral, height = float(rng.uniform(0.45, 0.78)), float(rng.uniform(0.2, 0.82))
        if side == "L" and height > 0.5:
            lateral = max(lateral, 0.66)  # beside the heart, not behind it
        return Lesion(side, lateral, height, float(rng.uniform(30, 52)), 0.0)
    if finding == "effusion":
        return Lesion(side, 0.0, 0.0, float(rng.uniform(0.2, 0.45)), float(rng.uniform(0.1, 0.3)) if rng.random() < 0.3 else 0.0)
    return None


def _grown(lesion: Lesion | None, finding: Finding, years: float) -> Lesion | None:
    if lesion is None:
        return None
    if finding == "mass":
        return replace(lesion, size=min(lesion.size * 1.10**years, 85.0))
    return replace(lesion, size=min(lesion.size + 0.05 * years, 0.72))


def _study(
    rng: np.random.Generator,
    seed: int,
    index: int,
    number: int,
    who: Person,
    home: int,
    day: date,
    body: Body,
    finding: Finding,
    lesion: Lesion | None,
) -> StudyPlan:
    at = home if rng.random() < 0.92 else 1 - home
    site = SITES[at]
    scanner = SCANNERS[at if rng.random() < 0.88 else 1 - at]  # a device is lent to the other building now and then
    age = (day - who.birth_date).days * 100 // 36525
    accession = f"{CANARY}{day:%y}{number:02d}" if who.canary else f"{'NS'[at]}{day:%y}{index:05d}{number:02d}"
    mobile = bool(rng.random() < site.mobile)
    burned = who.canary or rng.random() < (0.22 if mobile else 0.07)
    lines = (who.printed_name, f"MRN {who.mrn}", f"{day:%d.%m.%Y}") if burned else ()
    marks: tuple[Side | None, ...] = ("L", "R", None)
    images = tuple(
        ImagePlan(
            seed=child(seed, "phantom", "image", index, number, shot),
            body=body,
            pose=_pose(rng, mobile),
            scanner=scanner,
            age=age,
            finding=finding,
            lesion=lesion,
            burned_in=lines,
            side_mark=marks[int(rng.choice(3, p=[0.7, 0.2, 0.1]))],
            corner=CORNERS[int(rng.integers(4))],
        )
        for shot in range(2 if rng.random() < 0.08 else 1)  # a second exposure where the first was poor
    )
    return StudyPlan(
        index=number,
        day=day,
        time=f"{int(rng.integers(7, 19)):02d}{int(rng.integers(60)):02d}{int(rng.integers(60)):02d}",
        accession=accession,
        age=age,
        site=site,
        scanner=scanner,
        finding=finding,
        lesion=lesion,
        in_table=bool(rng.random() > 0.015),
        referring=physician(rng, who.canary),
        performing=physician(rng, who.canary),
        operator=physician(rng, who.canary),
        images=images,
    )


def _pose(rng: np.random.Generator, mobile: bool) -> Pose:
    loose = 1.8 if mobile else 1.0
    margins = rng.uniform(0.01, 0.07, 4) * (rng.random(4) < 0.22)
    return Pose(
        x=float(rng.normal(0, 0.012 * loose)),
        y=float(rng.normal(0, 0.014 * loose)),
        turn=float(rng.normal(0, 0.020 * loose)),
        zoom=float(rng.normal(1.04 if mobile else 1.0, 0.025)),
        rotation=float(rng.normal(0, 0.008 * loose)),
        breath=float(np.abs(rng.normal(0.045 if mobile else 0.0, 0.018))),
        mobile=mobile,
        exposure=float(rng.normal(0, 0.06 * loose)),
        collimation=(float(margins[0]), float(margins[1]), float(margins[2]), float(margins[3])),
    )
