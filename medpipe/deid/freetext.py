"""Which text may stay: an allow-list of technical language for everything that PS3.15's table does not list.

Off-table text is denied by default. A value stays when every word of it is technical (the words of the DICOM
dictionary, of the standard's code tables, and of devices: `vocabulary.json`) or too short to name anyone, when its
digits form no date, telephone number or long number, and when it holds none of the patient's own identifiers.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from importlib.resources import files

from pydicom.datadict import keyword_dict

LENGTH_MAX = 256
"""A longer value is prose."""
_PLAIN = re.compile(r"[\x20-\x7E]*\Z")
_LETTERS = re.compile(r"[A-Za-z]+")
_DIGITS = re.compile(r"[0-9]+")
_WORD = re.compile(r"[A-Za-z0-9]+")
_DATE = re.compile(
    r"(?<![0-9])(?:(?:18|19|20)[0-9]{2}[-./_ ]?(?:0?[1-9]|1[0-2])[-./_ ]?(?:0?[1-9]|[12][0-9]|3[01])"
    r"|(?:0?[1-9]|[12][0-9]|3[01])[-./_ ](?:0?[1-9]|1[0-2])[-./_ ](?:(?:18|19|20)?[0-9]{2}))(?![0-9])"
)
_NAMES = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_MONTH = re.compile(rf"(?i)(?<![a-z]){_NAMES}[a-z]*\W{{0,2}}[0-9]|[0-9]\W{{0,2}}{_NAMES}(?![a-z])")
_TELEPHONE = re.compile(r"[0-9]{3,}[-/ ()]+[0-9]{3,}")


@lru_cache
def vocabulary() -> frozenset[str]:
    """Return the technical words, in small letters."""
    return frozenset(json.loads((files("medpipe.deid") / "vocabulary.json").read_text()))


@lru_cache(maxsize=65536)
def technical(value: str, letters: int = 2) -> bool:
    """Say whether one value of an off-table text attribute is technical language; unknown words of `letters` name nobody."""
    if not value:
        return True
    if len(value) > LENGTH_MAX or not _PLAIN.match(value) or _DATE.search(value) or _MONTH.search(value) or _TELEPHONE.search(value):
        return False
    digits = [len(run) for run in _DIGITS.findall(value)]
    if any(run > 6 for run in digits) or sum(run for run in digits if run > 2) > 9:
        return False
    return all(_word(word, letters) for word in _WORD.findall(value))


def _word(word: str, letters: int) -> bool:
    if word.lower() in vocabulary() or word in keyword_dict:  # of an attribute, such as ImagePositionPatient
        return True
    mixed = any(letter.isdigit() for letter in word)
    if mixed and sum(letter.isdigit() for letter in word) > 5:
        return len(word) == sum(letter.isdigit() for letter in word)  # a plain number of six digits, such as a code of DCM
    return all(_run(run, max(letters, 3 if mixed else 0)) for run in _LETTERS.findall(word))


def _run(run: str, letters: int) -> bool:
    """Judge a run of letters; beside digits (tfl3d, VA25A) three letters name nobody."""
    return len(run) <= letters or run.lower() in vocabulary() or _compound(run)


def _compound(letters: str) -> bool:
    """Say whether a word is two technical words written as one, such as LargeFocus or TSPINE."""
    low, known = letters.lower(), vocabulary()
    return any(low[:cut] in known and low[cut:] in known for cut in range(4, len(low) - 3)) or (low[0] in "clt" and low[1:] in known)


NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z")
"""A value of VR DS or IS."""
CODED = re.compile(r"[A-Z0-9 _]{0,16}\Z")
"""A value of VR CS."""
DATE = re.compile(r"[0-9]{8}\Z")
TIME = re.compile(r"(?:[01][0-9]|2[0-3])(?:[0-5][0-9](?:(?:[0-5][0-9]|60)(?:\.[0-9]{1,6})?)?)?\Z")
DATETIME = re.compile(r"([0-9]{8})((?:[0-9]{2}){0,3}(?:\.[0-9]{1,6})?)([+-][0-9]{4})?\Z")
ZONE = re.compile(r"[+-][0-9]{4}\Z")
AGE = re.compile(r"([0-9]{3})([DWMY])\Z")
UID = re.compile(r"[0-9][0-9.]{0,63}\Z")
CLASS_UID = re.compile(r"(?=.{1,40}\Z)[0-9]{1,6}(?:\.[0-9]{1,6})+\Z")
"""A UID of a kind of object or of a scheme: manufacturers' roots have at most six digits, numbers of patients mostly more."""
SCHEMES = frozenset(
    {
        "DCM", "SCT", "SRT", "SNM3", "99SDM", "LN", "UCUM", "RADLEX", "FMA", "BI", "UMLS", "RXNORM", "ICD10", "NCIT", "UNS", "MA", "SCPECG",
        "MDC", "NCIt", "BARI", "I9C", "I10P", "DCMUID", "PUBCHEM_CID", "NDC", "NEU", "99HIGHDICOM", "99QIICR", "99PMP",
    }
)  # fmt: skip
"""Designators of public coding schemes: their code values are no numbers of patients."""
CLOSED = frozenset(
    {
        "CR", "CT", "DX", "MG", "MR", "NM", "OT", "PT", "RF", "SC", "SEG", "SM", "SR", "US", "XA", "ES", "GM", "IO", "PX", "XC",
        "OP", "OPT", "IVUS", "RTDOSE", "RTIMAGE", "RTPLAN", "RTSTRUCT", "ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL",
        "LOCALIZER", "OTHER", "MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_RCT",
        "YBR_ICT", "HFS", "HFP", "FFS", "FFP", "HFDR", "HFDL", "FFDR", "FFDL", "AP", "PA", "LL", "RL", "LAO", "RAO", "L", "R", "B",
        "U", "M", "F", "O", "YES", "NO", "Y", "N", "LIN", "LOG", "IDENTITY", "SIGNED", "UNSIGNED", "BINARY", "FRACTIONAL", "HU",
        "DV", "WSD", "DF", "DI", "SD", "SI", "SYN", "CONTAINS", "HAS OBS CONTEXT", "HAS CONCEPT MOD", "HAS ACQ CONTEXT",
        "HAS PROPERTIES", "INFERRED FROM", "SELECTED FROM", "SEPARATE", "CONTINUOUS", "TEXT", "NUM", "CODE", "PNAME", "DATE",
        "TIME", "DATETIME", "UIDREF", "SCOORD", "SCOORD3D", "TCOORD", "CONTAINER", "IMAGE", "COMPOSITE", "WAVEFORM",
        "FOR PRESENTATION", "FOR PROCESSING", "COL", "ROW", "AUTOMATIC", "SEMIAUTOMATIC", "MANUAL", "00", "01", "VOLUME", "NONE",
    }
)  # fmt: skip
"""Values that the standard itself defines for coded strings: they stay even where a patient is called so."""
CODE = re.compile(r"[A-Za-z0-9.{}\[\]/%*'^+-]{1,20}\Z")
_SNOMED_RT = r"[A-Z][A-Z0-9]?-[A-Z0-9]{3,6}"
_CODES = {
    "DCM": r"[0-9]{6}|[A-Z]{1,7}", "SCT": r"[0-9]{3,15}[01]0[0-9]", "SRT": _SNOMED_RT, "SNM3": _SNOMED_RT, "99SDM": _SNOMED_RT,
    "LN": r"[0-9]{1,5}-[0-9]", "RADLEX": "RID[0-9]{1,6}", "UMLS": "C[0-9]{7}", "NCIT": "C[0-9]{2,6}", "NCIt": "C[0-9]{2,6}",
    "FMA": "[0-9]{4,6}",
    "NEU": "[0-9]{1,4}", "BI": r"[0-9]{2,4}\.[0-9x]{1,3}|[1-5][abc]?|[ap]|I{1,3}|IV|NA",
    "RXNORM": "[0-9]{2,7}", "PUBCHEM_CID": "[0-9]{1,9}",
    "ICD10": r"[A-Z][0-9][0-9A-Z](?:\.[0-9A-Z]{1,4})?", "I10P": "[0-9A-Z]{7}", "I9C": r"[0-9VE][0-9]{2,3}(?:\.[0-9]{1,2})?",
}  # fmt: skip
_CODE_OF = {scheme: re.compile(rf"(?:{code})\Z") for scheme, code in _CODES.items()}
"""What codes look like; concepts of SNOMED CT end in 00 or 10 and a check digit (its partition for concepts)."""


def is_code(scheme: str, value: str) -> bool:
    """Say whether a public scheme has codes that look like `value`; of schemes not known here, technical words and short numbers."""
    known = _CODE_OF.get(scheme)
    return scheme in SCHEMES and (bool(known and known.match(value.strip())) or technical(value.strip(), 4))
