"""The people of the phantom hospital: invented names in several scripts, numbers, addresses, and the canary.

Every name is put together from common first and family names; nobody is meant.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import date

import numpy as np

CANARY = "ZZCANARYZZ"
"""Marker word of one patient, the canary: it stands in every identifying place of that patient's files, so that a search
through every byte written downstream shows whether anything came through."""
CANARY_INDEX = 1
"""Place of the canary in the list of patients; a hospital of one patient has none."""

# Specific Character Set, share of the patients, family and given names (F, M). With three component groups the name
# is alphabetic = ideographic = phonetic (PS3.5 6.2).
SCRIPTS: tuple[tuple[str, float, tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    ("", 0.62,
     ("Miller", "Baker", "Okafor", "Nguyen", "Rossi", "Novak", "Haddad", "Silva", "Jensen", "Cohen", "Patel", "Walsh", "Dubois", "Kaya"),
     ("Anna", "Grace", "Amara", "Linh", "Giulia", "Petra", "Leila", "Maria", "Karen", "Miriam", "Asha", "Niamh"),
     ("John", "Peter", "Chidi", "Minh", "Marco", "Pavel", "Omar", "Paulo", "Lars", "David", "Ravi", "Sean")),
    ("ISO_IR 100", 0.18,
     ("Müller", "Lefèvre", "García", "Núñez", "Åkesson", "Gonçalves", "Björnsson", "Weiß"),
     ("Hélène", "Zoë", "Inés", "Françoise", "Märta", "Conceição"),
     ("Jörg", "José", "André", "Óscar", "Søren", "João")),
    ("ISO_IR 192", 0.12,
     ("Wang=王", "Li=李", "Łukaszewska=Łukaszewska", "Kovačević=Kovačević", "Papadopoulou=Παπαδοπούλου", "Yıldız=Yıldız"),
     ("Xiaomei=小梅", "Ying=英", "Elena=Elena", "Zofia=Zofia"),
     ("Xiaodong=小东", "Wei=伟", "Nikos=Νίκος", "Tomáš=Tomáš")),
    ("\\ISO 2022 IR 87", 0.05,
     ("Yamada=山田=やまだ", "Suzuki=鈴木=すずき", "Tanaka=田中=たなか"),
     ("Hanako=花子=はなこ", "Yoko=洋子=ようこ"),
     ("Tarou=太郎=たろう", "Ken=健=けん")),
    ("ISO_IR 144", 0.03, ("Шевченко", "Коваль", "Иваненко"), ("Ольга", "Нина"), ("Юрий", "Олег")),
)  # fmt: skip
PHYSICIANS = ("Hartwell", "Adeyemi", "Lindqvist", "Moreau", "Castellano", "Brandt", "Oyelaran", "Whitcombe", "Farouk", "Steiner")
STREETS = ("Mill Lane", "Station Road", "Orchard Close", "Church Walk", "Canal Street", "Victoria Terrace")
# Capitals that do not fall apart into a Latin letter and an accent, as a device prints them.
PRINTED = str.maketrans(
    {"Ø": "O", "Ł": "L", "Ш": "SH", "Е": "E", "В": "V", "Ч": "CH", "Н": "N", "К": "K", "О": "O", "А": "A", "Л": "L", "Ь": None}
    | {"И": "I", "Г": "G", "Ю": "YU", "Р": "R", "Й": "Y", "^": ", "}
)
JOBS = ("TEACHER", "WELDER", "NURSE", "FARMER", "RETIRED MINER", "CLERK", "SHIPYARD WORKER")


@dataclass(frozen=True)
class Person:
    """Who a patient is: everything here identifies, and nothing here may leave the hospital."""

    name: str
    """PatientName with its component groups."""
    plain_name: str
    """Family^Given in the alphabetic group."""
    printed_name: str
    """As a device prints it: capitals without accents, Latin letters only."""
    charset: str
    """Specific Character Set, "" for the default repertoire, components separated by a backslash."""
    mrn: str
    other_id: str
    other_issuer: str
    insurance: str
    birth_date: date
    sex: str
    birth_name: str
    address: str
    phone: str
    job: str
    canary: bool


def person(rng: np.random.Generator, index: int, issuer: str, other_issuer: str, birth_date: date) -> Person:
    """Draw a person; the canary's names, numbers and addresses hold the marker word."""
    sex = "F" if rng.random() < 0.5 else "M"
    charset, _, families, women, men = SCRIPTS[int(rng.choice(len(SCRIPTS), p=[script[1] for script in SCRIPTS]))]
    family = families[int(rng.integers(len(families)))].split("=")
    given = (women if sex == "F" else men)[int(rng.integers(len(women if sex == "F" else men)))].split("=")
    canary = index == CANARY_INDEX
    if canary:
        charset, family, given = "ISO_IR 192", [CANARY, f"{CANARY}Ж"], [f"{CANARY}Given", "王小东"]
    groups = ["^".join(parts) for parts in zip(family, given, strict=False)]
    number = int(rng.integers(10**6, 10**7))
    mark = f"{CANARY}-" if canary else ""
    return Person(
        name="=".join(groups),
        plain_name=groups[0],
        printed_name=_printed(groups[0]),
        charset=charset,
        mrn=f"{mark}{number}",
        other_id=f"{mark or 'H'}{number * 7 % 10**7:07d}",
        other_issuer=f"{mark}{other_issuer}",
        insurance=f"{mark}K{int(rng.integers(10**8, 10**9))}",
        birth_date=birth_date,
        sex=sex,
        birth_name=f"{CANARY}Birth^{CANARY}" if canary else f"{PHYSICIANS[int(rng.integers(len(PHYSICIANS)))]}^{groups[0].split('^')[-1]}",
        address=f"{mark}{int(rng.integers(1, 200))} {STREETS[int(rng.integers(len(STREETS)))]}, Northwick",
        phone=f"{mark or '+44 20 7946 '}{int(rng.integers(1000)):04d}",
        job=f"{CANARY}JOB" if canary else JOBS[int(rng.integers(len(JOBS)))],
        canary=canary,
    )


def _printed(name: str) -> str:
    letters = unicodedata.normalize("NFD", name.upper().translate(PRINTED))
    return "".join(letter for letter in letters if letter.isascii())[:24]


def physician(rng: np.random.Generator, canary: bool) -> str:
    """Draw a member of staff, as a person name; the canary is treated by people of the same marker word."""
    name = PHYSICIANS[int(rng.integers(len(PHYSICIANS)))]
    initial = "ABCDEFGHIJKLM"[int(rng.integers(13))]
    return f"{CANARY}{name}^{initial}^^Dr" if canary else f"{name}^{initial}^^Dr"
