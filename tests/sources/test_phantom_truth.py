"""What the plan of the phantom hospital says, and that the images show it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from medpipe.sources import phantom_anatomy
from medpipe.sources.phantom_images import burned_in_boxes, render
from medpipe.sources.phantom_people import CANARY
from medpipe.sources.phantom_plan import identifiers, plan, probabilities
from medpipe.sources.phantom_truth import FINDINGS, SCANNERS, SITES, ImagePlan

HOSPITAL = plan(160)
IMAGES = [image for patient in HOSPITAL for study in patient.studies for image in study.images]


def first(finding: str) -> ImagePlan:
    return next(image for image in IMAGES if image.finding == finding and not image.burned_in and not any(image.pose.collimation))


def test_the_default_hospital_has_what_a_cohort_needs() -> None:
    studies = [study for patient in HOSPITAL for study in patient.studies]
    assert all(2 <= len(patient.studies) <= 6 for patient in HOSPITAL)
    assert 450 <= len(IMAGES) <= 700
    assert min(Counter(study.finding for study in studies).values()) > 90
    assert min(Counter((study.site, study.scanner) for study in studies).values()) > 15
    assert len({(study.site, study.scanner) for study in studies}) == len(SITES) * len(SCANNERS)
    assert {patient.person.sex for patient in HOSPITAL} == {"F", "M"}
    assert min(study.age for study in studies) < 35
    assert max(study.age for study in studies) > 89
    assert len({patient.person.charset for patient in HOSPITAL}) == 5


def test_a_smaller_hospital_is_the_beginning_of_a_larger_one_and_seeds_differ() -> None:
    assert plan(5) == HOSPITAL[:5]
    assert plan(5, seed=1) != HOSPITAL[:5]


def test_findings_are_as_frequent_as_stated_for_age_and_sex() -> None:
    people = plan(700)
    expected, found = Counter[str](), Counter[str]()
    for patient in people:
        age = (patient.studies[0].day - patient.person.birth_date).days / 365.25
        expected.update(probabilities(age, patient.person.sex))
        found[patient.studies[-1].finding] += 1  # by the last study, everyone who falls ill has
    for finding in FINDINGS:
        assert found[finding] / 700 == pytest.approx(expected[finding] / 700, abs=0.04)
    old, young = probabilities(85, "F")["effusion"], probabilities(30, "F")["effusion"]
    assert old > 3 * young
    assert probabilities(60, "M")["mass"] > probabilities(60, "F")["mass"]


def test_time_only_goes_forward_and_lesions_grow() -> None:
    for patient in HOSPITAL:
        days = [study.day for study in patient.studies]
        sizes = [study.lesion.size for study in patient.studies if study.lesion]
        assert days == sorted(set(days))
        assert sizes == sorted(sizes)
        assert len({study.accession for study in patient.studies}) == len(days)
    assert any((patient.studies[-1].day - patient.studies[0].day).days > 4 * 365 for patient in HOSPITAL)


def test_rendering_is_pure_and_as_the_scanner_stores() -> None:
    for scanner in SCANNERS:
        image = next(image for image in IMAGES if image.scanner == scanner)
        pixels, mask = render(image)
        again, _ = render(image)
        assert np.array_equal(pixels, again)
        assert pixels.shape == mask.shape == (scanner.rows, scanner.columns)
        assert pixels.dtype == (np.uint16 if scanner.bits > 8 else np.uint8)
        assert pixels.max() < 2**scanner.bits


@pytest.mark.parametrize("finding", ["mass", "effusion"])
def test_a_finding_brightens_the_image_inside_its_mask_and_hardly_elsewhere(finding: str) -> None:
    image = first(finding)
    ill, mask = render(image)
    well, nothing = render(replace(image, finding="normal", lesion=None))
    top = 2**image.scanner.bits - 1
    change = (ill.astype(float) - well) / top
    assert not nothing.any()
    assert mask.sum() > 150
    assert change[mask].mean() > 0.08
    assert abs(np.median(change[~mask])) < 0.03


def test_a_mass_lies_where_the_plan_says_and_is_as_large() -> None:
    for image in [image for image in IMAGES if image.finding == "mass" and not any(image.pose.collimation)][:12]:
        lesion = image.lesion
        assert lesion is not None
        _, mask = render(image)
        rows, columns = np.nonzero(mask)
        x, y = phantom_anatomy.mass_centre(image.body, lesion, image.pose.breath)
        row, column = phantom_anatomy.to_pixels(image, np.asarray(x), np.asarray(y))
        assert (rows.mean(), columns.mean()) == pytest.approx((float(row), float(column)), abs=3)
        assert 2 * np.sqrt(mask.sum() / np.pi) * image.scanner.spacing_mm == pytest.approx(lesion.size, rel=0.15)


def test_every_letter_of_burned_in_text_lies_in_its_rectangles() -> None:
    for image in [image for image in IMAGES if image.burned_in][:6]:
        shown = render(image)[0]
        outside = np.ones(shown.shape, np.bool_)
        boxes = burned_in_boxes(image)
        assert len(boxes) == len(image.burned_in)
        for top, left, bottom, right in boxes:
            assert 0 <= top < bottom <= shown.shape[0]
            assert 0 <= left < right <= shown.shape[1]
            assert shown[top:bottom, left:right].max() == 2**image.scanner.bits - 1
            outside[top:bottom, left:right] = False
        bare = replace(image, side_mark=None)  # the side mark makes way for text
        assert np.array_equal(render(bare)[0][outside], render(replace(bare, burned_in=()))[0][outside])


def test_the_two_scanners_sign_their_images() -> None:
    image = first("normal")
    grains = []
    for scanner in SCANNERS:
        pixels, _ = render(replace(image, scanner=replace(scanner, columns=256), pose=replace(image.pose, exposure=0.0)))
        shade = pixels.astype(float) / (2**scanner.bits - 1)
        grains.append((shade[200:240, 100:150].std(), shade[60:150, 60:200].mean()))
    assert abs(grains[0][1] - grains[1][1]) > 0.03  # contrast
    assert grains[0][0] != pytest.approx(grains[1][0], rel=0.1)  # noise


def test_the_canary_is_identified_by_its_marker_only() -> None:
    canary = HOSPITAL[1]
    assert canary.person.canary
    assert sum(patient.person.canary for patient in HOSPITAL) == 1
    assert all(CANARY in word for word in identifiers(canary) if "王" not in word and "Ж" not in word)
    assert all(image.burned_in and CANARY in image.burned_in[0] for study in canary.studies for image in study.images)
