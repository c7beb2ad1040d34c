"""The verb: nothing leaks, nothing is lost, and the same key gives the same bytes whatever happens on the way."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from builders_deid import BIRTH, CANARY, DIGITS, canary, hospital, instance, save, settings, with_pixels, written

import medpipe
from medpipe import recipe, records
from medpipe.deid.deidentify import deidentify, made_from
from medpipe.deid.patient import Search, Unit, search
from medpipe.deid.patient import deidentify as deidentify_patient
from medpipe.deid.pseudonyms import load
from medpipe.errors import InputError
from medpipe.parallel import processes

DEFAULT = settings()


def index(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "index.parquet")


def instances(out: Path) -> list[pydicom.FileDataset]:
    return [pydicom.dcmread(out / path) for path in index(out)["path"]]


def everything(out: Path) -> bytes:
    return b"\n".join(str(path).encode() + b"\n" + path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file())


def test_the_canary_is_nowhere_in_the_collection_nor_in_what_is_said(
    tmp_path: Path, key: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for study in (1, 2):
        save(canary(study), tmp_path / "in" / CANARY / f"{CANARY}{study}.dcm")
    record = deidentify(tmp_path / "in", tmp_path / "out", DEFAULT, key_file=key)
    assert (record.facts["instances"], record.facts["quarantined"]) == (2, {})
    found = everything(tmp_path / "out")
    for marker in (CANARY, CANARY.lower(), DIGITS, "山田", "花子", "Hanako", "ACC007", BIRTH, "20150117", "20150217", "Alban"):
        for encoding in ("utf-8", "utf-16-le", "iso2022_jp"):
            if len(coded := marker.encode(encoding, "ignore")) > 3:
                assert coded not in found, (marker, encoding)
    said = "".join(capfd.readouterr()) + caplog.text
    assert CANARY not in said
    assert DIGITS not in said


def test_research_metadata_is_kept_and_pixels_keep_their_bytes(tmp_path: Path, key: Path) -> None:
    original = canary()
    save(original, tmp_path / "in" / "a.dcm")
    deidentify(tmp_path / "in", tmp_path / "out", DEFAULT, key_file=key)
    (file,) = instances(tmp_path / "out")
    for keyword in ("Modality", "Rows", "KVP", "Exposure", "PixelSpacing", "BodyPartExamined", "ConvolutionKernel", "Manufacturer",
                    "SOPClassUID", "PatientSex", "PatientAge", "SliceThickness", "StudyTime"):  # fmt: skip
        assert file[keyword].value == original[keyword].value, keyword
    assert file.PixelData == original.PixelData
    assert list(file.ImageType) == ["ORIGINAL", "PRIMARY", ""]


def test_the_header_says_what_was_done(tmp_path: Path, key: Path) -> None:
    save(instance(), tmp_path / "in" / "a.dcm")
    deidentify(tmp_path / "in", tmp_path / "out", DEFAULT, key_file=key)
    (file,) = instances(tmp_path / "out")
    assert (file.PatientIdentityRemoved, file.LongitudinalTemporalInformationModified, file.BurnedInAnnotation) == ("YES", "MODIFIED", "NO")
    assert [item.CodeValue for item in file.DeidentificationMethodCodeSequence] == ["113100", "113101", "113107", "113108"]
    assert file.PatientID == file.PatientName == index(tmp_path / "out")["patient"][0]
    assert file.preamble == b"\0" * 128
    assert "SourceApplicationEntityTitle" not in file.file_meta


def test_intervals_stay_shifts_differ_and_references_lead_to_what_is_there(tmp_path: Path, key: Path) -> None:
    source = hospital(tmp_path / "in")
    reference = pydicom.Dataset()
    target = instance(1, 1)
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = target.SOPClassUID, target.SOPInstanceUID
    save(instance(1, 2, number=5, SourceImageSequence=[reference]), source / "z.dcm")
    deidentify(source, tmp_path / "out", DEFAULT, key_file=key)
    table, shifts = index(tmp_path / "out"), set()
    for _, rows in table.groupby("patient"):
        assert set(rows["day"]) == {0, 31}
        first = pydicom.dcmread(tmp_path / "out" / rows.sort_values("day")["path"].iloc[0])
        shifts.add((pd.Timestamp(first.StudyDate) - pd.Timestamp("2015-01-17")).days)
    assert len(shifts) == 3
    assert all(-3650 <= shift <= -1 for shift in shifts)
    (pointing,) = [file for file in instances(tmp_path / "out") if "SourceImageSequence" in file]
    assert pointing.SourceImageSequence[0].ReferencedSOPInstanceUID in set(table["instance"])


def test_dates_are_removed_where_the_recipe_says_so(tmp_path: Path, key: Path) -> None:
    save(instance(), tmp_path / "in" / "a.dcm")
    deidentify(tmp_path / "in", tmp_path / "out", settings(dates="remove"), key_file=key)
    (file,) = instances(tmp_path / "out")
    assert (file.StudyDate, file.LongitudinalTemporalInformationModified) == ("", "REMOVED")


def test_ages_over_89_become_90_also_where_they_are_computed(tmp_path: Path, key: Path) -> None:
    save(instance(1, PatientAge="097Y"), tmp_path / "in" / "a.dcm")
    computed = instance(2, PatientBirthDate="19200101")
    del computed.PatientAge
    save(computed, tmp_path / "in" / "b.dcm")
    chosen = recipe.build({"source": {"continuous": ["age"]}})
    deidentify(tmp_path / "in", tmp_path / "out", chosen, key_file=key)
    assert [file.PatientAge for file in instances(tmp_path / "out")] == ["090Y", "090Y"]
    assert index(tmp_path / "out")["age"].tolist() == [90.0, 90.0]


def test_a_second_run_does_nothing_and_a_changed_source_is_another_collection(tmp_path: Path, key: Path) -> None:
    source = hospital(tmp_path / "in")
    first = deidentify(source, tmp_path / "out", DEFAULT, key_file=key)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert deidentify(source, tmp_path / "out", DEFAULT, key_file=key).content == first.content
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    was = made_from(source, DEFAULT, key_file=key)
    save(instance(4), source / "new.dcm")
    assert made_from(source, DEFAULT, key_file=key).digest != was.digest


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, key: Path) -> None:
    source = hospital(tmp_path / "in", 1)
    for path in source.rglob("*.dcm"):
        os.utime(path, ns=(10**18, 10**18))
    was = made_from(source, DEFAULT, key_file=key)
    path = next(source.rglob("*.dcm"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(10**18, 10**18))
    assert made_from(source, DEFAULT, key_file=key) == was  # the same size, time and inode: trusted
    os.utime(path, ns=(10**18 + 1, 10**18 + 1))
    assert made_from(source, DEFAULT, key_file=key) != was
    assert "Family" not in (key.parent / "p.key.digests").read_text()


def test_two_workers_write_the_same_bytes_as_one(tmp_path: Path, key: Path) -> None:
    source = hospital(tmp_path / "in", 4)
    alone = deidentify(source, tmp_path / "one", DEFAULT, key_file=key)
    with processes(2) as executor:
        assert deidentify(source, tmp_path / "two", DEFAULT, key_file=key, executor=executor).content == alone.content


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, key: Path) -> None:
    source = hospital(tmp_path / "in", 5)
    whole = deidentify(source, tmp_path / "whole", DEFAULT, key_file=key)
    code = (
        "import sys; from pathlib import Path; from medpipe import recipe; from medpipe.deid.deidentify import deidentify;"
        "deidentify(Path(sys.argv[1]), Path(sys.argv[2]), recipe.build({}), key_file=Path(sys.argv[3]))"
    )
    out = tmp_path / "killed"
    run = subprocess.Popen([sys.executable, "-c", code, str(source), str(out), str(key)])
    deadline = time.monotonic() + 120
    while run.poll() is None and len(list(out.glob("instances/*/*.dcm"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (out / "record.json").exists()
    done = {path: path.stat().st_mtime_ns for path in out.glob("instances/*/*.dcm")}
    (out / "state" / "P0000.tmp").write_bytes(b"left behind")
    assert deidentify(source, out, DEFAULT, key_file=key).content == whole.content
    kept = [path for path, when in done.items() if path.stat().st_mtime_ns == when]
    assert len(kept) >= len(done) - 1  # all but the one whose line was not yet written


def test_every_file_is_output_or_counted_under_a_reason(tmp_path: Path, key: Path) -> None:
    source = hospital(tmp_path / "in")
    (source / "notes.txt").write_text("not an image")
    (source / "empty").write_bytes(b"")
    data = (source / "Family1" / "1.dcm").read_bytes()
    (source / "copy.dcm").write_bytes(data)
    save(instance(8), source / "whole.dcm")
    cut = (source / "whole.dcm").read_bytes()
    (source / "whole.dcm").write_bytes(cut[: len(cut) - 900])
    save(instance(6, number=3), source / "c1.dcm")
    save(instance(6, number=3, KVP="80"), source / "c2.dcm")
    wrong = instance(9)
    wrong.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    wrong.PixelData = pydicom.encaps.encapsulate([b"no image at all."])
    save(wrong, source / "undecodable.dcm")
    report = instance(10)
    del report.PixelData
    save(report, source / "report.dcm")
    record = deidentify(source, tmp_path / "out", settings(quarantine_max=0.6), key_file=key)
    assert record.facts["instances"] == 6
    assert record.facts["quarantined"] == {"TRUNCATED": 1, "CONFLICTING_DUPLICATE": 2, "UNDECODABLE": 1}
    assert record.facts["set_aside"] == {"NOT_DICOM": 2, "DUPLICATE": 1, "NO_PIXELS": 1}
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert sum(reason["files"] for reason in audit["not_in_the_collection"].values()) + 6 == audit["files"] == 14


def test_too_many_quarantined_images_are_an_error_and_no_record(tmp_path: Path, key: Path) -> None:
    source = hospital(tmp_path / "in", 1)
    data = (source / "Family1" / "1.dcm").read_bytes()
    (source / "Family1" / "1.dcm").write_bytes(data[:-500])
    with pytest.raises(InputError, match=r"1 of 2 images were quarantined \(TRUNCATED 1\).*quarantine_max"):
        deidentify(source, tmp_path / "out", DEFAULT, key_file=key)
    assert not (tmp_path / "out" / "record.json").exists()


def test_a_folder_without_images_is_an_error(tmp_path: Path, key: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="empty"):
        deidentify(tmp_path / "in", tmp_path / "out", DEFAULT, key_file=key)
    (tmp_path / "in" / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"no DICOM image \(NOT_DICOM 1\)"):
        deidentify(tmp_path / "in", tmp_path / "out", DEFAULT, key_file=key)
    with pytest.raises(InputError, match="not a folder"):
        deidentify(tmp_path / "none", tmp_path / "out", DEFAULT, key_file=key)
    assert not (tmp_path / "out").exists()


def test_burned_in_names_are_blacked_out_or_quarantined_and_side_marks_stay(tmp_path: Path, key: Path) -> None:
    named = with_pixels(instance(1), written(["MILLER, ANNA", "MRN 4820193"]))
    marked = with_pixels(instance(2), written(["L", "PORTABLE"], pixels=20))
    for number, file in enumerate((named, marked)):
        save(file, tmp_path / "in" / f"{number}.dcm")
    record = deidentify(tmp_path / "in", tmp_path / "out", DEFAULT, key_file=key)
    assert record.facts["frames_blacked_out"] == 1
    out = {file.PatientSex: file for file in instances(tmp_path / "out")}
    assert out["M"].PixelData == marked.PixelData
    assert out["F"].pixel_array[10:34, 8:80].std() < 1
    assert out["F"].BurnedInAnnotation == "NO"
    again = deidentify(tmp_path / "in", tmp_path / "q", settings(burned_in="quarantine", quarantine_max=0.5), key_file=key)
    assert again.facts["quarantined"] == {"BURNED_IN_TEXT": 1}


def test_labels_and_covariates_come_from_the_table_and_the_header(tmp_path: Path, key: Path) -> None:
    source = hospital(tmp_path / "in", 3)
    rows = [
        "AccessionNumber,finding,severity",
        "ACC001001,mass,2.5",
        "ACC001002,normal,",
        "ACC002001,mass,1",
        "ACC002002,Familyb Given,4",
        "ACC009009,x,1",
    ]
    (source / "labels.csv").write_text("\n".join(rows))
    chosen = recipe.build(
        {"source": {"table": "labels.csv", "table_key": "AccessionNumber", "label": "finding", "classes": ["normal", "mass"],
                    "continuous": ["severity", "age", "KVP"], "categorical": ["sex", "site", "scanner"]}}
    )  # fmt: skip
    record = deidentify(source, tmp_path / "out", chosen, key_file=key)
    table = index(tmp_path / "out")
    assert sorted(table["label"].dropna()) == ["mass", "mass", "normal"]
    assert set(table["KVP"]) == {120.0}
    assert table["site"].str.fullmatch("site-[a-z2-7]{4}").all()
    assert table["scanner"].str.fullmatch("scanner-[a-z2-7]{4}").all()
    assert record.facts["set_aside"] == {"TABLE": 1}
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())["table"]
    assert audit["instances without a row in the table"] == 2
    assert audit["values of label refused"] == 1
    assert audit["rows of the table without an instance"] == 1


def test_a_label_that_names_a_patient_or_is_seen_once_is_refused(tmp_path: Path, key: Path) -> None:
    source = hospital(tmp_path / "in", 3, 1)
    (source / "t.csv").write_text("PatientID,word\nMRN000001,Familyb\nMRN000002,Familyb\nMRN000003,rare\n")
    chosen = recipe.build({"source": {"table": "t.csv", "table_key": "PatientID", "label": "word"}})
    deidentify(source, tmp_path / "out", chosen, key_file=key)
    assert index(tmp_path / "out")["label"].isna().all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"table": "none.csv", "label": "a"}, "no file inside the source folder"),
        ({"table": "../t.csv", "label": "a"}, "no file inside the source folder"),
        ({"table": "t.csv", "table_key": "PatientID", "label": "absent"}, "no column 'absent'"),
        ({"table": "t.csv", "table_key": "StudyInstanceUID", "label": "word"}, "no column 'StudyInstanceUID'"),
        ({"label": "word"}, "names no table"),
        ({"continuous": ["nonsense"]}, "neither a column"),
        ({"categorical": ["patient"]}, "cannot be called"),
    ],
)
def test_a_wrong_table_or_column_is_named(tmp_path: Path, key: Path, source: dict[str, object], message: str) -> None:
    folder = hospital(tmp_path / "in", 1)
    (folder / "t.csv").write_text("PatientID,word\nMRN000001,a\n")
    with pytest.raises(InputError, match=message):
        deidentify(folder, tmp_path / "out", recipe.build({"source": source}), key_file=key)


def test_a_collection_is_a_record_that_verifies(tmp_path: Path, key: Path) -> None:
    deidentify(hospital(tmp_path / "in", 1), tmp_path / "out", DEFAULT, key_file=key)
    record = records.load(tmp_path / "out", "Collection", verify=True)
    assert record.made_from["inputs"]["key"] == load(key).key_id
    assert record.made_from["code"] == medpipe.__version__
    assert not (tmp_path / "out" / "state").exists()


def outcomes(files: list[Path], out: Path, key: Path) -> dict[str, str]:
    """What becomes of each file as a patient of its own: the bundled files share UIDs, which would set most of them aside."""
    found = {}
    for ordinal, path in enumerate(files):
        (what,) = search(Search(((ordinal, path),), key, "PatientID"))
        if what.reason is not None:
            found[path.name] = str(what.reason)
            continue
        (out / str(ordinal) / "state").mkdir(parents=True)
        unit = Unit(
            what.patient, ((ordinal, path, what.instance),), out / str(ordinal), out / str(ordinal) / "state", key, DEFAULT.deid, ()
        )
        (entry,) = deidentify_patient(unit).entries.values()
        assert (entry["reason"] is None) == (entry["row"] is not None)
        found[path.name] = str(entry["reason"] or "output")
    return found


def bundled(limit: int) -> list[Path]:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < limit)


def test_every_small_bundled_file_is_output_or_has_a_reason(tmp_path: Path, key: Path) -> None:
    found = outcomes(bundled(40_000), tmp_path / "out", key)
    assert sum(what == "output" for what in found.values()) >= 25
    assert "RESIDUAL_IDENTIFIER" not in found.values()
    assert found["MR_truncated.dcm"] == "TRUNCATED"
    assert found["DICOMDIR"] == "DICOMDIR"


@pytest.mark.slow
def test_every_bundled_file_is_output_or_has_a_reason(tmp_path: Path, key: Path) -> None:
    found = outcomes(bundled(10**8), tmp_path / "out", key)
    assert sum(what == "output" for what in found.values()) >= 60
    assert "RESIDUAL_IDENTIFIER" not in found.values()


@pytest.mark.slow
def test_the_real_files_are_output_or_quarantined_without_a_leak(tmp_path: Path, key: Path, data_dir: Path) -> None:
    record = deidentify(data_dir / "dicom", tmp_path / "out", settings(quarantine_max=1.0), key_file=key)
    assert record.facts["instances"] >= 20
    found = everything(tmp_path / "out")
    for marker in (b"SIMPSON", b"KAUFMAN", b"DAVIDSON", b"ZZZDOWNTIME", b"PATIENTFIVE", b"6774825273", b"292821506", b"CompressedSamples"):
        assert marker not in found
