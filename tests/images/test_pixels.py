from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from builders_images import instance

from medpipe.images import pixels
from medpipe.images.reasons import Reason, Rejected

RAMP = np.arange(0, 3200, 2, dtype=np.uint16).reshape(40, 40)


def test_rescale_gives_the_unit_of_the_modality() -> None:
    frame = pixels.frame(instance(RAMP, RescaleSlope=2, RescaleIntercept=-1024))
    assert np.array_equal(frame.values, RAMP.astype(np.float32) * 2 - 1024)
    assert not frame.eight_bit


def test_monochrome1_is_turned_over_so_that_more_is_brighter() -> None:
    frame = pixels.frame(instance(RAMP, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(frame.values, -RAMP.astype(np.float32))
    eight = pixels.frame(instance(RAMP.astype(np.uint8), PhotometricInterpretation="MONOCHROME1"))
    assert eight.eight_bit
    assert np.array_equal(eight.values, 255 - RAMP.astype(np.uint8))


def test_padding_is_found_in_stored_values_with_its_range() -> None:
    frame = pixels.frame(instance(RAMP, PixelPaddingValue=0, PixelPaddingRangeLimit=10, RescaleIntercept=-5, RescaleSlope=1))
    assert frame.padding is not None
    assert np.array_equal(frame.padding, RAMP <= 10)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"PhotometricInterpretation": "RGB"}, Reason.COLOUR),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.COLOUR),
        ({"PhotometricInterpretation": None}, Reason.PIXELS_UNREADABLE),
        ({"PixelData": None}, Reason.PIXELS_UNREADABLE),
        ({"PixelData": b"\0" * 100}, Reason.PIXELS_UNREADABLE),
        ({"BitsAllocated": None}, Reason.PIXELS_UNREADABLE),
    ],
)
def test_pixels_that_cannot_be_used_have_their_reason(attributes: dict[str, object], reason: Reason) -> None:
    with pytest.raises(Rejected) as rejected:
        pixels.frame(instance(RAMP, **attributes))
    assert rejected.value.reason is reason


def test_a_cut_off_file_and_no_dicom_at_all_are_unreadable_and_a_missing_one_is_the_machines_fault(tmp_path: Path) -> None:
    whole = tmp_path / "whole.dcm"
    instance(RAMP).save_as(whole, enforce_file_format=True)
    for cut in (0, 60, 140, 300, whole.stat().st_size - 500):
        (tmp_path / "cut.dcm").write_bytes(whole.read_bytes()[:cut])
        with pytest.raises(Rejected):
            pixels.frame(pixels.read(tmp_path / "cut.dcm"))
    with pytest.raises(FileNotFoundError):
        pixels.read(tmp_path / "absent.dcm")


def test_real_files_are_read_or_refused_with_a_reason_and_never_end_in_an_error(data_dir: Path, tmp_path: Path) -> None:
    read, refused = 0, set()
    for file in sorted((data_dir / "dicom").rglob("*.dcm*")):
        path = file
        if file.suffix == ".gz":
            path = tmp_path / file.stem
            path.write_bytes(gzip.decompress(file.read_bytes()))
        try:
            assert np.isfinite(pixels.frame(pixels.read(path)).values).all()
            read += 1
        except Rejected as rejected:
            refused.add(rejected.reason)
    assert read >= 12
    assert refused <= {Reason.COLOUR, Reason.PIXELS_UNREADABLE}
