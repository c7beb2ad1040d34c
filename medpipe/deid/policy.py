"""The policy in words: the tables of docs/deidentification.md, made from the same data that the engine reads.

`python -m medpipe.deid.policy` prints them.
"""

from __future__ import annotations

from medpipe.deid import private, profile
from medpipe.deid.profile import Action, Row
from medpipe.settings import DeidSettings
from medpipe.sources.folder import SENTENCES, SET_ASIDE, Reason

WORDS: dict[Action, str] = {
    "remove": "removed",
    "empty": "emptied",
    "dummy": "replaced by a dummy; the items of a sequence are cleaned one by one",
    "uid": "replaced by a keyed UID; the items of a sequence are cleaned one by one",
    "keep": "kept where the value is harmless; ages over 89 become 90",
    "retain": "kept unless it names the patient; the items of a sequence are cleaned one by one",
    "clean": "its technical words kept, the basic action where there are none; the items of a sequence are cleaned one by one",
    "keep date": "dates and times of day kept; what is none gets the basic action",
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


def options() -> str:
    """Return the table of the options of PS3.15 and the settings that choose them, in Markdown."""
    lines = ["| setting | option of PS3.15 | code (CID 7050) | rows kept | rows cleaned |", "|---|---|---|---|---|"]
    for option in profile.OPTIONS:
        value = str(option.value).lower()
        codes = [row.options.get(option.column) for row in profile.rows()]
        lines.append(f"| `deid.{option.setting}: {value}` | {option.meaning} | {option.code} | {codes.count('K')} | {codes.count('C')} |")
    return "\n".join(lines)


def safe_private() -> str:
    """Return the table of the private elements that may stay, in Markdown."""
    lines = ["| creator | element | VR | what it is |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {row.creator} | ({row.group},xx{row.element}) | {row.vr} | {row.name} |" for row in private.rows()])


def actions(settings: DeidSettings) -> str:
    """Return the table of every listed attribute and what is done with it under `settings`, in Markdown."""
    lines = [
        f"Actions: {profile.edition()}. Options: {profile.options_edition()}; newer rows have none.",
        "",
        "| tag | attribute | Basic Profile | options | done by default |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(
        lines
        + [
            f"| {_tag(row)} | {row.name or '(newer than the dictionary)'} | {row.basic} | {_options(row)} | {_done(row, settings)} |"
            for row in profile.rows()
        ]
    )


def _tag(row: Row) -> str:
    return "private" if row.tag == "PRIVATE" else f"({row.tag[:4]},{row.tag[4:]})"


def _options(row: Row) -> str:
    return ", ".join(f"{option} {code}" for option, code in sorted(row.options.items()))


def _done(row: Row, settings: DeidSettings) -> str:
    return "removed" if "X" in row.tag or row.tag == "PRIVATE" else WORDS[profile.action(row, settings)]


def page(text: str) -> str:
    """Return a page with what stands between its markers made anew."""
    tables = {"reasons": reasons(), "options": options(), "safe private": safe_private(), "actions": actions(DeidSettings())}
    for name, table in tables.items():
        start, end = f"<!-- {name}: generated -->", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n{table}\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    print(reasons(), options(), safe_private(), actions(DeidSettings()), sep="\n\n")
