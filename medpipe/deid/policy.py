"""The policy in words: the tables of docs/deidentification.md, made from the same data that the engine reads.

`python -m medpipe.deid.policy` prints them.
"""

from __future__ import annotations

from medpipe.deid import profile
from medpipe.deid.profile import Action, Row
from medpipe.settings import DeidSettings
from medpipe.sources.folder import SENTENCES, SET_ASIDE, Reason

WORDS: dict[Action, str] = {
    "remove": "removed",
    "empty": "emptied",
    "dummy": "replaced by a dummy; the items of a sequence are cleaned one by one",
    "uid": "replaced by a keyed UID; the items of a sequence are cleaned one by one",
    "keep": "kept where the value is harmless; ages over 89 become 90",
    "shift": "dates shifted by the patient's days, times of day kept; what is no date gets the basic action",
    "patient": "the patient's pseudonym",
    "name": "the patient's pseudonym",
    "accession": "a keyed pseudonym",
    "site": "a pseudonym such as site-k4xq",
    "scanner": "a pseudonym such as scanner-b7ma",
}


def reasons() -> str:
    """Return the table of reason codes, in Markdown."""
    lines = ["| code | counts against `deid.quarantine_max` | meaning |", "|---|---|---|"]
    return "\n".join(lines + [f"| `{reason}` | {'no' if reason in SET_ASIDE else 'yes'} | {SENTENCES[reason]} |" for reason in Reason])


def actions(settings: DeidSettings) -> str:
    """Return the table of every listed attribute and what is done with it under `settings`, in Markdown."""
    lines = [
        f"Actions: {profile.edition()}. Options: {profile.options_edition()}; newer rows have none.",
        "",
        "| tag | attribute | Basic Profile | done by default |",
        "|---|---|---|---|",
    ]
    return "\n".join(
        lines
        + [
            f"| {_tag(row)} | {row.name or '(newer than the dictionary)'} | {row.basic} | {_done(row, settings)} |"
            for row in profile.rows()
        ]
    )


def _tag(row: Row) -> str:
    return "private" if row.tag == "PRIVATE" else f"({row.tag[:4]},{row.tag[4:]})"


def _done(row: Row, settings: DeidSettings) -> str:
    return "removed" if "X" in row.tag or row.tag == "PRIVATE" else WORDS[profile.action(row, settings)]


def page(text: str) -> str:
    """Return a page with what stands between its markers made anew."""
    for name, table in (("reasons", reasons()), ("actions", actions(DeidSettings()))):
        start, end = f"<!-- {name}: generated -->", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n{table}\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    print(reasons(), actions(DeidSettings()), sep="\n\n")
