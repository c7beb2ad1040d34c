"""The engine: every element of a dataset, at every depth, meets one rule.

In this order: private elements, curves, overlays, group lengths, nested pixels and tags that no dictionary knows are
removed, but for what the recipe's options keep; what the standard's table lists gets its action; everything else must
prove that it is harmless. Values that stay are left as the bytes they were; no text outside ASCII stays, so the
character set goes too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import assert_never

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID_dictionary

from medpipe.deid import binary, freetext, private
from medpipe.deid.dummies import DUMMIES, TEXT_DUMMY, empty
from medpipe.deid.identifiers import CLASS_UIDS, Identifiers
from medpipe.deid.profile import DATES, Action, policy
from medpipe.deid.pseudonyms import Pseudonyms
from medpipe.deid.times import capped_age, shifted_date
from medpipe.deid.values import BULK, NUMERIC, TEXT, dictionary_vrs, parts, text_of
from medpipe.deid.wording import harmless, plain, technical_words
from medpipe.settings import DeidSettings

PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
CODE_TAGS = frozenset({0x00080100, 0x00080119})
SEQUENCE_NAMES = frozenset({0x00180024, 0x00189005})
_PROSE = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
CONTENT_LABEL = 0x00700080
"""A coded string without defined terms that must not be empty (PS3.3 table 10-12)."""
TEXT_VALUE = 0x0040A160
"""The text of a content item of a report (PS3.3 C.17.3)."""


@dataclass
class Cleaner:
    """Cleans the datasets of one patient in place."""

    settings: DeidSettings
    pseudonyms: Pseudonyms = field(repr=False)
    identifiers: Identifiers = field(repr=False)
    patient: str
    """The patient's pseudonym."""
    shift_days: int = field(repr=False)
    counts: Counter[str] = field(default_factory=Counter)
    """Elements by what was done to them."""
    overlays: frozenset[int] = frozenset()
    """Groups of overlays of the object at hand in which no text was found (`overlays`)."""
    _scanner: str = ""
    _explicit: bool = True

    @cached_property
    def _rules(self) -> Mapping[int, tuple[Action, Action]]:
        return policy(self.settings)

    def clean(self, dataset: FileDataset) -> None:
        """Clean a whole object; its pixels (PS3.3 C.7.6.3) are left to `pixels`."""
        self._scanner = self.pseudonyms.scanner(*(text_of(dataset, tag) for tag in (0x00080070, 0x00081090, 0x00181000)))
        self._explicit = not dataset.file_meta.TransferSyntaxUID.is_implicit_VR
        self._walk(dataset, top=True)

    def _walk(self, dataset: Dataset, *, top: bool) -> None:
        scheme = text_of(dataset, 0x00080102).strip()
        safe = private.safe(dataset, self.identifiers) if self.settings.retain_safe_private else {}
        for tag, element in list(dataset.items()):
            number, group = int(tag), int(tag) >> 16
            if top and (number in PIXELS or group in self.overlays):
                continue
            if number in safe:
                dataset[tag] = safe[number]
                self.counts["kept, safe private"] += 1
                continue
            if group & 1 or group < 0x0008 or not number & 0xFFFF or group >= 0xFFFC or group >> 8 in (0x50, 0x60) or number in PIXELS:
                self._remove(dataset, tag, "removed, private" if group & 1 else "removed, structural")
                continue
            vr = _vr(number, element.VR)
            if number in self._rules:
                self._apply(dataset, tag, vr, *self._rules[number])
            elif number == 0x00080005 or vr is None:
                self._remove(dataset, tag, "removed, character set" if number == 0x00080005 else "removed, unknown or wrong VR")
            else:
                self._off_table(dataset, tag, vr, scheme)
            odd = isinstance(element, RawDataElement) and (element.VR in (None, "UN") or (element.value and len(element.value) & 1))
            if odd and tag in dataset:
                self._well_formed(dataset, tag)

    def _well_formed(self, dataset: Dataset, tag: BaseTag) -> None:
        """Mend what some writers do wrong in an element that stays: no VR in a file with VRs, an odd number of bytes."""
        element = dataset.get_item(tag)
        if self._explicit and isinstance(element, RawDataElement) and element.VR in (None, "UN"):
            element = dataset[tag]
        if isinstance(element, RawDataElement) and element.value and len(element.value) % 2:
            padding = b"\0" if element.VR in BULK or element.VR == "UI" else b" "
            dataset[tag] = element._replace(value=element.value + padding, length=len(element.value) + 1)

    def _remove(self, dataset: Dataset, tag: BaseTag, why: str) -> None:
        del dataset[tag]
        self.counts[why] += 1

    def _blank(self, dataset: Dataset, tag: BaseTag, vr: str, why: str) -> None:
        """Leave a value that says nothing where one stood that may not stay: its object's definition may ask for one."""
        if vr in _PROSE or int(tag) == CONTENT_LABEL:
            self._put(dataset, tag, vr, TEXT_DUMMY, f"dummy, {why}")
        else:
            self._put(dataset, tag, vr, empty(vr), f"emptied, {why}")

    def _put(self, dataset: Dataset, tag: BaseTag, vr: str, value: object, what: str) -> None:
        dataset[tag] = DataElement(tag, vr, value)
        self.counts[what] += 1

    def _apply(self, dataset: Dataset, tag: BaseTag, vr: str | None, action: Action, fallback: Action) -> None:
        """Do what the table says; a VR that the element must not have makes it go."""
        if vr is None or action == "remove":
            self._remove(dataset, tag, "removed, table")
            return
        if vr == "SQ":
            self._sequence(dataset, tag, empty=action == "empty")
            return
        text = text_of(dataset, tag) if vr in TEXT or vr in ("UI", "DS", "IS", *DATES) else ""
        match action:
            case "empty":
                self._put(dataset, tag, vr, empty(vr), "emptied, table")
            case "dummy":
                self._dummy(dataset, tag, vr)
            case "uid":
                self._uid(dataset, tag, text)
            case "shift" | "keep date":
                self._date(dataset, tag, vr, text, fallback)
            case "keep":
                self._characteristic(dataset, tag, vr, text)
            case "retain":
                self._retained(dataset, tag, vr, text, fallback)
            case "clean":
                self._described(dataset, tag, vr, text, fallback)
            case "patient" | "name":
                self._put(dataset, tag, vr, self.patient, "pseudonym")
            case "accession":
                self._put(dataset, tag, vr, self.pseudonyms.accession(text) if text.strip() else "", "pseudonym")
            case "site":
                self._put(dataset, tag, vr, self.pseudonyms.site(text) if text.strip() else "", "pseudonym")
            case "scanner":
                self._put(dataset, tag, vr, self._scanner, "pseudonym")
            case _:
                assert_never(action)

    def _sequence(self, dataset: Dataset, tag: BaseTag, *, empty: bool) -> None:
        if empty:
            self._put(dataset, tag, "SQ", Sequence(), "emptied, table")
            return
        element = dataset[tag]  # parses the items where they are still bytes
        if element.VR != "SQ":
            self._remove(dataset, tag, "removed, unknown or wrong VR")
            return
        for item in element.value:
            self._walk(item, top=False)
        self.counts["kept, items cleaned"] += 1

    def _dummy(self, dataset: Dataset, tag: BaseTag, vr: str) -> None:
        value = DUMMIES.get(vr)
        if vr == "UI":  # two objects must not get one
            self._uid(dataset, tag, text_of(dataset, tag))
        elif value is None:
            self._remove(dataset, tag, "removed, table")
        else:
            self._put(dataset, tag, vr, value, "dummy, table")

    def _uid(self, dataset: Dataset, tag: BaseTag, text: str) -> None:
        values = [value if value in UID_dictionary or not value else self.pseudonyms.uid(value) for value in parts(text)]
        self._put(dataset, tag, "UI", values if len(values) > 1 else values[0], "UID mapped")

    def _characteristic(self, dataset: Dataset, tag: BaseTag, vr: str, text: str) -> None:
        """Keep a patient characteristic whose value is one; ages over 89 become 90 (45 CFR 164.514(b)(2)(i)(C))."""
        if vr == "AS":
            age = capped_age(text)
            self._put(dataset, tag, vr, age or "", "kept, characteristic")
        elif harmless(vr, text, "", self.identifiers) and not (
            vr in NUMERIC and binary.identifies(dataset.get_item(tag), vr, self.identifiers)
        ):
            self.counts["kept, characteristic"] += 1
        else:
            self._blank(dataset, tag, vr, "text not technical")

    def _retained(self, dataset: Dataset, tag: BaseTag, vr: str, text: str, fallback: Action) -> None:
        """Keep what identifies a device, a place or an object, unless it names the patient."""
        if vr == "UI":
            self._off_table_uid(dataset, tag)
        elif vr not in BULK and plain(text, self.identifiers):
            self.counts["kept, retained"] += 1
        else:
            self._apply(dataset, tag, vr, fallback, fallback)

    def _described(self, dataset: Dataset, tag: BaseTag, vr: str, text: str, fallback: Action) -> None:
        """Keep the technical words of a description; where there are none the basic action is done."""
        values = [text] if vr in ("LT", "ST", "UT") else parts(text)
        if vr in ("AE", "CS"):
            values = [value if harmless(vr, value, "", self.identifiers) else "" for value in values]
        else:
            values = [technical_words(value, self.identifiers) for value in values] if vr in TEXT else []
        if any(values) and vr != "PN":
            self._put(dataset, tag, vr, values if len(values) > 1 else values[0], "cleaned, technical words kept")
        else:
            self._apply(dataset, tag, vr, fallback, fallback)

    def _date(self, dataset: Dataset, tag: BaseTag, vr: str, text: str, fallback: Action | None) -> None:
        """Move or keep dates; where one is none, do the basic action, or remove it where the table has no row."""
        days = 0 if self.settings.dates == "keep" else self.shift_days
        values = [_moved(vr, value, days) for value in parts(text)] if vr in DATES else [None]
        if vr == "SH" and not days and freetext.ZONE.match(text.strip()):
            self.counts["kept, date"] += 1
        elif self.settings.dates == "remove" or None in values or (not days and self.identifiers.within(text)):
            if fallback is None:
                self._blank(dataset, tag, vr, "date")
            else:
                self._apply(dataset, tag, vr, fallback, fallback)
        else:
            self._put(dataset, tag, vr, values if len(values) > 1 else values[0], "shifted" if days else "kept, date")

    def _off_table(self, dataset: Dataset, tag: BaseTag, vr: str, scheme: str) -> None:
        number = int(tag)
        if vr == "SQ":
            self._sequence(dataset, tag, empty=False)
        elif vr in NUMERIC or (vr in BULK and number in binary.ARRAYS):
            if binary.identifies(dataset.get_item(tag), vr, self.identifiers):
                self._remove(dataset, tag, "removed, no number")
            else:
                self.counts["kept"] += 1
        elif vr in BULK:
            self._remove(dataset, tag, "removed, binary")
        elif vr == "UI":
            self._off_table_uid(dataset, tag)
        elif vr in DATES:
            self._date(dataset, tag, vr, text_of(dataset, tag), None)
        elif number == TEXT_VALUE and self.settings.structured_content == "clean":
            self._described(dataset, tag, vr, text_of(dataset, tag), "dummy")
        elif vr in ("PN", "AE", "UR", "AS"):
            self._blank(dataset, tag, vr, "names a person or a system")
        else:
            self._off_table_text(dataset, tag, vr, scheme)

    def _off_table_uid(self, dataset: Dataset, tag: BaseTag) -> None:
        text = text_of(dataset, tag)
        if all(self._stays(int(tag), value) for value in parts(text)):
            self.counts["kept"] += 1
        else:
            self._uid(dataset, tag, text)

    def _stays(self, number: int, value: str) -> bool:
        if not value or value in UID_dictionary:
            return True
        fine = (number in CLASS_UIDS and freetext.CLASS_UID.match(value)) or (self.settings.retain_uids and freetext.UID.match(value))
        return bool(fine) and not self.identifiers.within(value)

    def _off_table_text(self, dataset: Dataset, tag: BaseTag, vr: str, scheme: str) -> None:
        text = text_of(dataset, tag)
        values = [text] if vr in ("LT", "ST", "UT") else parts(text)
        public = scheme in freetext.SCHEMES
        if public and int(tag) == 0x00080102:
            self.counts["kept"] += 1
            return
        kind = "code" if int(tag) in CODE_TAGS and freetext.is_code(scheme, text) else "sequence name" if int(tag) in SEQUENCE_NAMES else ""
        fine = [harmless(vr, value, kind, self.identifiers) for value in values]
        if all(fine):
            self.counts["kept"] += 1
            element = dataset.get_item(tag)
            if isinstance(element, RawDataElement) and element.value and b"\0" in element.value.rstrip(b"\0 "):
                self._blank(dataset, tag, vr, "text not technical")
            return
        if int(tag) == 0x00080104 or int(tag) in CODE_TAGS:  # a code without its meaning is no code
            self._put(dataset, tag, vr, TEXT_DUMMY, "dummy, text not technical")
        elif not any(fine) or vr in ("LT", "ST", "UT"):
            self._blank(dataset, tag, vr, "text not technical")
        else:  # the place of a value among the others has a meaning, such as in Image Type
            self._put(
                dataset, tag, vr, [value if good else "" for value, good in zip(values, fine, strict=True)], "thinned, text not technical"
            )


def _moved(vr: str, value: str, days: int) -> str | None:
    """Return a value of VR DA, DT or TM with its date moved and its time of day kept; None where it is no such value."""
    if not value:
        return ""
    if vr == "TM":
        return value if freetext.TIME.match(value) else None
    found = freetext.DATETIME.match(value) if vr == "DT" else freetext.DATE.match(value.replace(".", ""))
    if not found:
        return None
    day = shifted_date(found[1] if vr == "DT" else found[0], days)
    if day is None:
        return None
    return day + (found[2] + (found[3] or "") if vr == "DT" else "")


@lru_cache(maxsize=4096)
def _vr(tag: int, stated: str | None) -> str | None:
    """Return the VR by which to treat an element that has the VR `stated`, None where it contradicts the standard's.

    A text VR in place of another is an old or sloppy writer's; text where a number belongs, or the reverse, is refused.
    """
    known = dictionary_vrs(tag)
    if not known:
        return str(stated) if stated and stated != "UN" and tag in _TABLE_ONLY else None
    if stated is None or stated == "UN" or stated in known:
        return str(stated) if stated in known else known[0]
    textual = TEXT | {"DA", "TM", "DT", "DS", "IS"}
    if stated in textual and known[0] in textual:
        return known[0]
    return str(stated) if stated in ("OB", "OW") and known[0] in ("OB", "OW", "US") else None


_TABLE_ONLY = frozenset(policy(DeidSettings()))
