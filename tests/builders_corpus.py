"""People who do not exist, every way in which their identifiers are written, and a search for them through a folder's bytes."""

from __future__ import annotations

import base64
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from random import Random

import pandas as pd

_SCRIPTS = [  # character set, name in it (ideographic or native), phonetic
    ("ISO_IR 100", "Müßigbrod^Zoë Ångström", "", "latin-1"),
    ("\\ISO 2022 IR 87", "佐々木^美咲", "ささき^みさき", "iso2022_jp"),
    ("ISO_IR 192", "Łukaszewiczówna^Żaneta", "წერეთელი^ნინო", "utf-8"),
    ("\\ISO 2022 IR 149", "남궁^서윤", "", "euc_kr"),
    ("ISO_IR 126", "Χατζηδάκης^Ευγενία", "", "iso8859_7"),
    ("GB18030", "欧阳^晓彤", "", "gb18030"),
    ("ISO_IR 144", "Щербакова^Людмила", "", "iso8859_5"),
]
_TECHNICAL = ["Gordon", "Robertson", "Alexander", "Ferguson", "Crystal", "Lawrence"]
"""Names that are also words of the vocabulary of technical text: Gordon is a stain, Robertson a view."""


def _name(rng: Random) -> str:
    return "".join(rng.choice("BDFGKLMNPRSTVZ").lower() + rng.choice(("a", "e", "i", "o", "u", "ou", "ae")) for _ in range(3)) + "qv"


def _number(rng: Random, digits: int) -> str:
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


@dataclass(frozen=True)
class Person:
    """One patient with everything that identifies them, drawn from a seed."""

    seed: int
    _rng: Random = field(repr=False, compare=False)

    @cached_property
    def words(self) -> dict[str, str]:
        """Single words and numbers by what they are."""
        rng = self._rng
        family = _TECHNICAL[self.seed % len(_TECHNICAL)] if self.seed % 3 == 2 else _name(rng).capitalize()
        return {
            "family": family, "given": _name(rng).capitalize(), "middle": _name(rng).capitalize(),
            "physician": _name(rng).capitalize(), "operator": _name(rng).capitalize(),
            "institution": _name(rng).capitalize(), "street": _name(rng).capitalize(), "town": _name(rng).capitalize(),
            "mrn": _number(rng, 8), "other_id": f"K{_number(rng, 7)}", "accession": f"A{_number(rng, 9)}", "serial": f"Z{_number(rng, 8)}",
            "phone": f"0{_number(rng, 3)}{_number(rng, 7)}",
        }  # fmt: skip

    @cached_property
    def days(self) -> dict[str, date]:
        """Birth and two studies."""
        birth = date(1931, 1, 1) + timedelta(self._rng.randrange(365 * 60))
        study = date(2011, 1, 1) + timedelta(self._rng.randrange(365 * 9))
        return {"birth": birth, "study": study, "follow_up": study + timedelta(self._rng.randrange(40, 400))}

    @property
    def sparse(self) -> bool:
        """Whether the headers name little of this person, so that only the rules for text can find the rest."""
        return self.seed % 2 == 1

    @property
    def script(self) -> tuple[str, str, str, str]:
        """Character set as DICOM writes it, the name in it, its phonetic form, Python's codec."""
        return _SCRIPTS[self.seed % len(_SCRIPTS)]

    def uid(self, kind: str, number: int = 0) -> str:
        """A UID with the patient's number and birth date in it."""
        return f"1.2.826.0.1.3680043.{self.words['mrn']}.{self.days['birth']:%Y%m%d}.{len(kind)}.{number}"


def person(seed: int) -> Person:
    """The person of a seed."""
    made = Person(seed, Random(f"person {seed}"))
    assert made.words, made.days  # drawn in this order, whatever is asked for first
    return made


def dates(day: date) -> dict[str, str]:
    """One day in many spellings."""
    forms = ("%Y%m%d", "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%m-%d-%Y", "%d%m%Y", "%m%d%Y", "%d %b %Y",
             "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%y%m%d", "%d%m%y", "%d.%m.%y", "%y-%m-%d", "%Y %m %d")  # fmt: skip
    return {form: day.strftime(form) for form in forms}


def spellings(who: Person) -> list[str]:
    """The identifiers in the forms in which people, devices and systems write them."""
    w = who.words
    family, given, middle, mrn = w["family"], w["given"], w["middle"], w["mrn"]
    out = [
        family, given, family.upper(), family.lower(), f"{family}^{given}", f"{family}^{given}^{middle}^Dr", f"{given} {family}",
        f"{family}, {given}", f"{family},{given}", f"{family}_{given}", f"{given}{family}", f"{family}-{middle}", f"{given[0]}. {family}",
        f"{family} {given[0]}", f"{family.upper()}{given.upper()}", " ".join(family), ".".join(family), f"{family[:3]} {family[3:]}",
        f"{family[:2]}-{family[2:]}", f"x{family}x", f"{family}1", f"pat {family} seen", f"AXIAL {family}", f"{family}\\{given}", f"#{mrn}",
        mrn, f"MRN {mrn}", f"{mrn[:4]} {mrn[4:]}", f"{mrn[:4]}-{mrn[4:]}", f"{mrn[:2]}.{mrn[2:5]}.{mrn[5:]}", f"00{mrn}", f"{mrn}-1",
        w["other_id"], w["other_id"].lower(), w["accession"], w["accession"][1:], w["serial"], f"S/N {w['serial']}", w["serial"][1:],
        w["phone"], f"+44 {w['phone'][1:4]} {w['phone'][4:7]} {w['phone'][7:]}", f"({w['phone'][:4]}) {w['phone'][4:7]}-{w['phone'][7:]}",
        f"{given.lower()}.{family.lower()}@{w['town'].lower()}.example", f"12 {w['street']} Street, {w['town']}", w["town"],
        f"Dr {w['physician']}", f"Dr. {given} {w['physician']}", w["operator"], f"op:{w['operator'].lower()}",
        f"{w['institution']} Hospital", f"Dept of Radiology, {w['institution']}", f"HOSP-{w['institution'].upper()}",
        f"PID|1||{mrn}^^^MR||{family}^{given}||{who.days['birth']:%Y%m%d}|F", f'{{"name":"{family}","id":"{mrn}"}}',
        f"http://pacs.{w['town'].lower()}.example/{mrn}?n={family}", base64.b64encode(f"{family}^{given}".encode()).decode(),
        f"{family}".encode().hex(), f"{family} {given} {mrn}".encode("utf-16-le").decode("latin-1"), who.script[1], who.script[2],
        who.script[1].replace("^", " "), f"{family} born {who.days['birth']:%d.%m.%Y}",
    ]  # fmt: skip
    return [text for text in (*out, *(form for day in who.days.values() for form in dates(day).values())) if text]


@dataclass(frozen=True)
class Needles:
    """What may not be found in any byte that was written or said, with where it comes from."""

    anywhere: dict[bytes, str]
    """In small letters."""
    exact: dict[bytes, str]
    """Numbers as computers write them."""
    alone: dict[bytes, str]
    """Dates of six digits, which count where no digit stands beside them."""


def needles(who: Person) -> Needles:
    """Every form in which an identifier can be recognised."""
    anywhere: dict[bytes, str] = {}
    exact: dict[bytes, str] = {}
    alone: dict[bytes, str] = {}
    texts = dict(who.words) | {"phone_grouped": f"{who.words['phone'][4:7]} {who.words['phone'][7:]}"}
    texts |= {f"serial without letter{number}": who.words[number][1:] for number in ("serial", "accession", "other_id")}
    texts |= {f"native {number}": part for number, part in enumerate(re.split(r"[\^ ]", f"{who.script[1]}^{who.script[2]}")) if part}
    for kind, day in who.days.items():
        for form, text in dates(day).items():
            if len(text) == 6:
                alone[text.encode()] = f"{kind} {form}"
            else:
                texts[f"{kind} {form}"] = text
    for kind, text in texts.items():
        for codec in dict.fromkeys(("utf-8", "utf-16-le", "utf-16-be", who.script[3])):
            coded = text.encode(codec, "ignore").lower()
            if len(coded) > 2:
                anywhere[coded] = f"{kind} in {codec}"
                if codec == "iso2022_jp":
                    anywhere[re.sub(rb"\x1b\([bj]|\x1b\$b", b"", coded)] = f"{kind} in {codec}, bare"
    anywhere = {needle: kind for needle, kind in anywhere.items() if len(needle) > 3}
    for kind in ("family", "mrn"):
        anywhere[who.words[kind].encode().hex().encode()] = f"{kind} in hexadecimal"
    anywhere[base64.b64encode(f"{who.words['family']}^".encode())[:-4].lower()] = "family in base 64"
    for number in (int(who.words["mrn"]), int(f"{who.days['birth']:%Y%m%d}")):
        exact[number.to_bytes(4, "little")] = exact[number.to_bytes(4, "big")] = f"{number} as a whole number"
    return Needles(anywhere, exact, alone)


def leaks(folder: Path, people: list[Person]) -> Counter[str]:
    """Search names and bytes of every file under `folder`, also within compressed streams; count what was found, by file."""
    found: Counter[str] = Counter()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += pd.read_parquet(path).to_csv().encode()
        for stream in (str(path.relative_to(folder)).encode(), data, *_inflated(data)):
            found.update(f"{path.name}: {kind}" for kind in within(stream, people))
    return found


def within(data: bytes, people: list[Person]) -> Iterator[str]:
    """What of these people is in `data`."""
    low = data.lower()
    for who in people:
        for needle, kind in searched(who).anywhere.items():
            if needle in low:
                yield f"person {who.seed}, {kind}"
        for needle, kind in searched(who).exact.items():
            if needle in data:
                yield f"person {who.seed}, {kind}"
        for needle, kind in searched(who).alone.items():
            if re.search(rb"(?<![0-9.])" + needle + rb"(?![0-9.])", data):
                yield f"person {who.seed}, {kind}"


_searched: dict[int, Needles] = {}


def searched(who: Person) -> Needles:
    """The needles of a person, made once."""
    return _searched.setdefault(who.seed, needles(who))


def _inflated(data: bytes) -> Iterator[bytes]:
    """Streams of zlib within `data`, as PDF, PNG and Parquet hold them."""
    for found in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", data):
        try:
            yield zlib.decompressobj().decompress(data[found.start() :], 1 << 20)
        except zlib.error:
            continue
