"""GA4GH's Data Use Ontology: the codes of what a patient permitted, and which uses each of them covers.

A release of synthetic images is always a use that develops a method: a generator is trained. What forbids that (NMDS) or is
about other data than images (GSO) therefore forbids everything that medpipe does.
"""

from __future__ import annotations

import re
from typing import Literal

from medpipe.errors import InputError

Purpose = Literal["general", "health", "disease", "ancestry"]

PERMISSIONS = {
    "NRES": ("DUO:0000004", "no restriction"),
    "GRU": ("DUO:0000042", "general research use"),
    "HMB": ("DUO:0000006", "health, medical or biomedical research"),
    "DS": ("DUO:0000007", "research on the named diseases"),
    "POA": ("DUO:0000011", "research on population origins or ancestry only"),
}
"""Short code to the ontology's identifier and what it permits."""

MODIFIERS = {
    "RS": ("DUO:0000012", "one type of research only"),
    "NMDS": ("DUO:0000015", "no development of methods, which training a generator is"),
    "GSO": ("DUO:0000016", "genetic studies only, which images are not"),
    "NPUNCU": ("DUO:0000018", "not-for-profit organisations and non-commercial use only"),
    "PUB": ("DUO:0000019", "results are published"),
    "COL": ("DUO:0000020", "in collaboration with the primary investigators"),
    "IRB": ("DUO:0000021", "with the approval of an ethics committee"),
    "GS": ("DUO:0000022", "within a region only"),
    "MOR": ("DUO:0000024", "nothing is published before a date"),
    "TS": ("DUO:0000025", "until a date only"),
    "US": ("DUO:0000026", "by approved users only"),
    "PS": ("DUO:0000027", "within an approved project only"),
    "IS": ("DUO:0000028", "within an approved institution only"),
    "RTN": ("DUO:0000029", "what is derived goes back to the source"),
    "CC": ("DUO:0000043", "clinical care too"),
    "NPOA": ("DUO:0000044", "no research on population origins or ancestry"),
    "NPU": ("DUO:0000045", "not-for-profit organisations only"),
    "NCU": ("DUO:0000046", "non-commercial use only"),
}
"""Short code to the ontology's identifier and the condition. Not all are in the recipe: see `consent.conditions`."""

COVERED: dict[Purpose, frozenset[str]] = {
    "general": frozenset({"NRES", "GRU"}),
    "health": frozenset({"NRES", "GRU", "HMB"}),
    "disease": frozenset({"NRES", "GRU", "HMB", "DS"}),
    "ancestry": frozenset({"NRES", "GRU", "POA"}),
}
"""Which permissions cover a purpose; DS covers its own diseases alone."""

_BY_NUMBER = {identifier[-7:]: code for code, (identifier, _) in (PERMISSIONS | MODIFIERS).items()}
DISEASE = re.compile(r"[A-Z]{2,10}:[A-Za-z0-9.]{1,20}")
"""A disease as an ontology writes it, such as MONDO:0005148: a name could be anything, a patient's too."""


def code(text: str) -> str:
    """Return the short code of what was written as GRU, DUO:0000042, DUO_0000042 or its address; raises InputError for another."""
    plain = text.strip().upper()
    number = re.fullmatch(r"(?:HTTPS?://\S+/)?DUO[:_](\d{7})", plain)
    found = _BY_NUMBER.get(number[1]) if number else plain if plain in PERMISSIONS or plain in MODIFIERS else None
    if found is None:
        raise InputError("holds what is no code of the Data Use Ontology: write codes such as GRU, HMB, DS or DUO:0000042")
    return found
