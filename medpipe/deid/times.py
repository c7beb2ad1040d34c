"""Dates moved by days, and ages capped, or refused where they are none."""

from __future__ import annotations

from datetime import date, timedelta

from medpipe.deid import freetext

AGE_LIMIT = 90


def shifted_date(text: str, days: int) -> str | None:
    """Return the date `days` after YYYYMMDD, None where it is no date or leaves the calendar."""
    try:
        return (date(int(text[:4]), int(text[4:6]), int(text[6:8])) + timedelta(days=days)).strftime("%Y%m%d").zfill(8)
    except (ValueError, OverflowError):
        return None


def capped_age(text: str) -> str | None:
    """Return an age string (VR AS) with ages over 89 years as 090Y, None where it is no age."""
    found = freetext.AGE.match(text.strip())
    if not found:
        return None
    years = int(found[1]) / {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[found[2]]
    return f"{AGE_LIMIT:03d}Y" if years >= AGE_LIMIT else found[0]
