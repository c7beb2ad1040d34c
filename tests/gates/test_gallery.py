from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from builders_gates import Images, people

from medpipe.gates import alignment, copies, room
from medpipe.gates.alignment import MEASURES
from medpipe.gates.copy_search import searched
from medpipe.gates.gallery import MAPPED, Gallery, shortlist
from medpipe.gates.geometry import grey
from medpipe.gates.job import GALLERY, Job, save
from medpipe.gates.room import Room


@pytest.fixture(scope="module")
def train() -> Images:
    return people(150, 1)[0]


def test_a_patient_is_not_searched_for_among_the_own_images(train: Images) -> None:
    patients = np.arange(150) // 2
    gallery = Gallery.of(train, patients)
    others = alignment.measures(Gallery.of(train[2:]), train[:1])
    apart = alignment.measures(gallery, train[:1], np.array([0]))
    place = MEASURES.index("aligned_correlation")
    assert apart[0, place] == pytest.approx(others[0, place], abs=0.3)
    assert apart[0, place] < alignment.measures(gallery, train[:1])[0, place] - 1


def test_a_gallery_in_files_that_only_their_owner_may_read_finds_what_one_in_memory_finds(
    train: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "PART", 64)
    patients = np.arange(150) // 2
    made = Gallery.made(lambda part: train[part], patients, Room(tmp_path))
    opened = Gallery.opened(made.arrays, Room(tmp_path))
    queries, own = np.concatenate([train[:10, ..., ::-1], people(10, 2)[0]]), np.arange(20)
    expected = alignment.measures(Gallery.of(train, patients), queries, own)
    assert alignment.measures(opened, queries, own).tobytes() == expected.tobytes()
    assert {file.name.partition(".")[0]: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == dict.fromkeys(MAPPED, 0o600)
    opened.images.zero_()  # what one worker changes is changed for nobody else
    assert alignment.measures(Gallery.opened(made.arrays, Room(tmp_path)), queries, own).tobytes() == expected.tobytes()


@pytest.mark.parametrize("share", [-0.2, 0.2])
def test_the_bank_finds_copies_that_were_moved_by_a_fifth_of_the_side(share: float) -> None:
    images = people(200, 1, side=32)[0]
    moved = np.stack([copies._shifted(image / 255, share) for image in images[:20]])
    index, warps, _ = shortlist(Gallery.of(images), grey(np.rint(moved * 255).astype(np.uint8)), torch.full((20,), -1), 1)
    assert (index[:, 0] == torch.arange(20)).sum() >= 19
    assert (warps[:, 0, 0, -1].abs() - 0.4).abs().max() < 0.1


def test_a_worker_that_meets_a_folder_again_does_not_search_what_was_there_before(train: Images, tmp_path: Path) -> None:
    state, found = tmp_path / "state", []
    for known in (train[:60], train[60:]):
        state.mkdir()
        made = Gallery.made(known.__getitem__, np.arange(len(known)), Room(state))
        save(state, GALLERY, made.arrays)
        job = Job("score", "cohort", 0, 4, tmp_path, tmp_path, state, "{}")
        assert searched(job, train[:4]).tobytes() == alignment.measures(Gallery.of(known), train[:4]).tobytes()
        found.append(searched(job, train[:4]))
        shutil.rmtree(state)
    assert not np.array_equal(*found)
