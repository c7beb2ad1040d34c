"""What identifies one patient: names, numbers, dates and UIDs gathered from all of that patient's headers.

They are held in memory while the patient's files are cleaned and never written, sent or shown.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID_dictionary

from medpipe.deid.freetext import CLOSED, vocabulary
from medpipe.deid.needles import Strings
from medpipe.deid.profile import Retained
from medpipe.deid.pseudonyms import Pseudonyms
from medpipe.deid.values import dictionary_vrs, parts, text_in

# Attributes whose whole value identifies a patient, a person, a request, a place or a device; person names are
# recognised by their VR.
NUMBERS = frozenset(
    {
        0x00100020, 0x00101000, 0x00100021, 0x00100218, 0x00101090, 0x00102154, 0x00102155, 0x00101050, 0x00102299,
        0x00080050, 0x00200010, 0x00401001, 0x00400009, 0x00402016, 0x00402017, 0x00400440, 0x00380010, 0x00380060,
        0x00181000, 0x00081010, 0x00400241, 0x00400242, 0x00181004, 0x00181005, 0x00181007, 0x00181008, 0x0018700A,
        0x00120040, 0x00120042, 0x00100223, 0x00401002,
    }
)  # fmt: skip
PLACES = frozenset({0x00080080, 0x00080081, 0x00080092, 0x00081040, 0x00101040, 0x00102152, 0x00402008, 0x00380300, 0x0040A07C})
TOKEN = re.compile(r"[^\W_]+")
_DIGITS = re.compile(r"[0-9]{6,}")
_DAY = re.compile(r"(?:18|19|20)\d{6}\Z")
LONG = 4
"""From this length on a name or number is searched for inside other words and in written bytes."""
PHRASE = 8
"""From this length on the whole name of a place is searched for, even where its words are technical."""
CLASS_UIDS = frozenset({0x00080016, 0x0008001A, 0x0008001B, 0x00080062, 0x00081150, 0x0008010C, 0x0008010D, 0x00081115})
"""Attributes whose UID names a kind of object or a scheme, not an object."""


def folded(text: str) -> str:
    """Return `text` without case and accents."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter)).casefold()


@dataclass
class Identifiers:
    """The identifying words, numbers, dates and UIDs of one patient."""

    words: set[str] = field(default_factory=set, repr=False)
    """Parts of persons' and places' names, folded."""
    numbers: set[str] = field(default_factory=set, repr=False)
    """Whole numbers and codes, compact."""
    dates: set[str] = field(default_factory=set, repr=False)
    """YYYYMMDD."""
    uids: set[str] = field(default_factory=set, repr=False)
    spelled: set[bytes] = field(default_factory=set, repr=False)
    """As the bytes stand in the files."""
    retained: Retained = field(default_factory=Retained)
    """What the recipe keeps although it identifies: it is not gathered."""
    told: set[str] = field(default_factory=set, repr=False)
    """Dates that are kept, YYYYMMDD: they stand in the files, also where the patient was born on one of them."""

    _seen: dict[str, bool] = field(default_factory=dict, repr=False, compare=False)
    """Texts that were judged: a patient's files repeat them."""
    _known: Known | None = field(default=None, repr=False, compare=False)

    def gather(self, dataset: Dataset) -> None:
        """Add what `dataset` holds, at every depth, private elements included; what cannot be read here is refused later."""
        for tag, element in list(dataset.items()):
            try:
                self._gather(dataset, int(tag), element)
            except MemoryError:
                raise
            except Exception:  # a malformed element can make the parser raise anything, OSError too
                continue

    def _gather(self, dataset: Dataset, tag: int, element: DataElement | RawDataElement) -> None:
        vr = _vr(tag, element)
        if vr == "SQ" or (vr == "UN" and not isinstance(element, RawDataElement)):
            sequence = dataset[tag]
            for item in sequence.value if sequence.VR == "SQ" else ():
                self.gather(item)
        elif self.retained.covers(tag, vr):
            self.told.update(value[:8] for value in parts(text_in(dataset, element)) if vr in ("DA", "DT"))
        elif vr == "PN" or tag in NUMBERS or tag in PLACES:
            for value in parts(text_in(dataset, element)):
                self.add(value, place=tag in PLACES, number=tag in NUMBERS)
            raw = element.value if isinstance(element, RawDataElement) else None
            spelled = (part.strip(b" \0") for part in re.split(rb"[\\^=]", raw or b""))
            self.spelled.update(part for part in spelled if vr == "PN" or part.decode("latin-1").lower() not in vocabulary())
        elif vr in ("DA", "DT"):
            self.dates.update(value[:8] for value in parts(text_in(dataset, element)) if _DAY.match(value[:8]))
        elif vr == "UI" and tag >> 16 > 0x0002 and tag not in CLASS_UIDS:
            self.uids.update(value for value in parts(text_in(dataset, element)) if value and value not in UID_dictionary)

    def add(self, value: str, *, place: bool = False, number: bool = False) -> None:
        """Add one value: a number as a whole, a name by its parts."""
        self._seen, self._known = {}, None
        found = [token for token in TOKEN.findall(folded(value)) if len(token) > 1]
        whole = "".join(found)
        if number and len(whole) > 1:
            self.numbers.add(whole)
            self.numbers.update(_DIGITS.findall(whole))  # A123456789 is written without its letter, too
        for token in found:
            if (place or number) and (len(token) < LONG or token in vocabulary()):
                continue  # half the names of hospitals and devices are technical words, such as Radiology and Siemens
            (self.numbers if token.isdigit() else self.words).add(token)
        if not number and len(whole) >= (LONG if not place else PHRASE) and (not place or len(found) > 1):
            self.words.add(whole)

    @property
    def known(self) -> Known:
        """What is searched for, made once."""
        if self._known is None:
            self._known = Known.of(self)
        return self._known

    def within(self, text: str) -> bool:
        """Say whether `text` holds any of them, in any case, order, and with any separators."""
        found = self._seen.get(text)
        if found is None:
            found = self._seen[text] = self.known.within(TOKEN.findall(folded(text)))
        return found

    def in_bytes(self, value: bytes) -> bool:
        """Say whether the bytes of a binary value hold any of them as text."""
        return any(True for _ in self.known.needles.within(value.lower()))

    def _kinds(self) -> dict[str, set[str]]:
        return {"word": self.words, "number": self.numbers, "date": self.dates, "uid": self.uids, "spelled": self._spelled()}

    def _spelled(self) -> set[str]:
        return {spelled.decode("latin-1") for spelled in self.spelled}

    def digests(self, names: Pseudonyms) -> frozenset[str]:
        """Return keyed digests of all of them, which say nothing without the key."""
        return frozenset(names.alias(kind, value, 16) for kind, values in self._kinds().items() for value in values)

    def unseen(self, seen: frozenset[str], names: Pseudonyms) -> Identifiers:
        """Return those whose keyed digest is not among `seen`."""
        new = {kind: {value for value in values if names.alias(kind, value, 16) not in seen} for kind, values in self._kinds().items()}
        spelled = {value.encode("latin-1") for value in new["spelled"]}
        return Identifiers(new["word"], new["number"], new["date"], new["uid"], spelled)

    def is_number(self, digits: str) -> bool:
        """Say whether a numeric value is one of the patient's numbers or dates."""
        try:
            value = float(digits)
        except ValueError:
            return False
        plain = digits.strip().lstrip("+-").split(".")[0]
        return (len(plain) >= LONG and (plain in self.known.tokens or plain.lstrip("0") in self.known.plain)) or (
            abs(value) < 1e19 and abs(int(value)) in self.known.whole
        )

    def needles(self) -> tuple[set[bytes], set[bytes]]:
        """Return the bytes that no written file may hold, in lower case: (anywhere, only with no like character beside them).

        Words that are part of technical words, as Mary is of primary, and numbers, which UIDs hold by chance, count only where
        they stand alone.
        """
        anywhere: set[bytes] = set()
        alone: set[bytes] = {date.encode() for date in self.dates}
        for word in {word for word in self.words | self.numbers if len(word) >= LONG and not _written_anyway(word)}:
            (alone if _inside_words(word) or (word.isdigit() and len(word) < 8) else anywhere).update(_encodings(word))
        for spelled in (part.lower() for part in self.spelled):
            text = spelled.decode("latin-1")
            if len(spelled) >= LONG and not _written_anyway(text) and not _weak(spelled):
                (alone if _inside_words(text) or (text.isdigit() and len(text) < 8) else anywhere).add(spelled)
        anywhere.update(uid.encode() for uid in self.uids if len(uid) > 12)
        return anywhere, alone


@dataclass(frozen=True)
class Known:
    """The identifiers of a patient in the forms in which they are searched for."""

    tokens: frozenset[str]
    """Words, numbers and dates as they may stand between separators, or be cut by them."""
    inner: tuple[str, ...]
    """Words and numbers that count inside other words, too."""
    days: frozenset[str]
    """Dates in eight digits, in any order of year, month and day."""
    whole: frozenset[int]
    """Numbers and dates of five digits and more, leading zeros not counted."""
    plain: frozenset[str]
    """Numbers and dates without leading zeros."""
    needles: Strings
    longest: int

    @classmethod
    def of(cls, identifiers: Identifiers) -> Known:
        """Derive the forms."""
        whole_days = {form for day in identifiers.dates for form in _forms(day[:4], day[4:6], day[6:])}
        short = {form for day in identifiers.dates for form in _forms(day[2:4], day[4:6], day[6:])}
        known = identifiers.words | identifiers.numbers
        bare = {digits for number in identifiers.numbers if len(digits := _LETTER.sub("", number)) > LONG}
        spelled = {form for word in identifiers.words if len(word) >= LONG for form in _hexadecimal(word)}
        numbers = {number for number in identifiers.numbers | bare | spelled if number.isdecimal() and number.isascii()} | whole_days
        anywhere, alone = identifiers.needles()
        return cls(
            tokens=frozenset(known | bare | spelled | whole_days | short),
            inner=tuple(word for word in known if len(word) > LONG),
            days=frozenset(whole_days),
            whole=frozenset(int(number) for number in numbers if len(number) < 20 and int(number) >= 10**LONG),
            plain=frozenset(number.lstrip("0") for number in numbers),
            needles=Strings(anywhere | alone),
            longest=max((len(word) for word in known | whole_days), default=0),
        )

    def within(self, tokens: list[str]) -> bool:
        """Say whether a text that was cut into `tokens` holds any of them."""
        if not self.tokens.isdisjoint(tokens):
            return True
        whole = "".join(tokens)
        if any(word in whole for word in self.inner) or any(day in whole for day in self.days):
            return True
        return any(self._joined(tokens, start) for start in range(len(tokens) - 1))

    def _joined(self, tokens: list[str], start: int) -> bool:
        """Say whether tokens from `start` on form an identifier together, as S M I T H and 51-08-29 do."""
        joined = tokens[start]
        for token in tokens[start + 1 :]:
            joined += token
            if len(joined) > self.longest:
                return False
            if joined in self.tokens:
                return True
        return False


_LETTER = re.compile(r"[^0-9]")


def _hexadecimal(word: str) -> tuple[str, ...]:
    """Spell a word by the codes of its letters, which may look like a number."""
    return tuple(form.encode().hex() for form in (word, word.upper(), word.capitalize()))


def _forms(year: str, month: str, day: str) -> tuple[str, str, str]:
    return year + month + day, day + month + year, month + day + year


OWN = frozenset(
    {
        "medpipe", "basic", "application", "confidentiality", "profile", "clean", "pixel", "data", "option", "retain", "longitudinal",
        "temporal", "information", "modified", "dates", "patient", "characteristics", "removed", "table", "site", "scanner",
    }
)  # fmt: skip
"""Words that medpipe writes into every file: a patient called so is cleaned from all other text, and not searched for."""


def _written_anyway(text: str) -> bool:
    return text in OWN or text.upper() in CLOSED


@lru_cache
def _all_words() -> str:
    return "\n".join(sorted(vocabulary() | OWN))


def _inside_words(text: str) -> bool:
    """Say whether `text` is part of a technical word, or of a word that medpipe writes."""
    return text in _all_words()


def _weak(spelled: bytes) -> bool:
    """Say whether bytes are too plain to tell anything, such as "----" or "0000"."""
    return len(set(spelled)) < 2 or not any(byte > 0x2F for byte in spelled)


def _encodings(word: str) -> Iterable[bytes]:
    if len(set(word)) < 2:
        return
    yield word.encode("utf-8", "surrogateescape")
    if not _ascending(word):
        yield word.encode("utf-16-le", "surrogatepass").rstrip(b"\0")  # in big-endian text, too, where its letters are Latin
    with contextlib.suppress(UnicodeEncodeError):
        yield word.encode("latin-1")


def _ascending(word: str) -> bool:
    """Say whether a word such as 1234 is, in 16 bits a letter, what every look-up table of ascending numbers holds."""
    return all(ord(after) - ord(before) == 1 for before, after in pairwise(word))


def _vr(tag: int, element: DataElement | RawDataElement) -> str:
    vr = element.VR
    if vr is None or vr == "UN":
        known = dictionary_vrs(tag)
        return known[0] if known else "UN"
    return str(vr)
