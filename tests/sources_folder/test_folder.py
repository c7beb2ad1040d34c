"""The listing of a folder: everything is in it once, in one order, and nothing shows a name."""

from __future__ import annotations

import os
from pathlib import Path

from medpipe.sources import folder


def test_the_listing_is_sorted_complete_and_hides_names(tmp_path: Path) -> None:
    for name in ("b/2", "a/9", "b/.hidden", "Ünal^Ayşe.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    entries = folder.listing(tmp_path)
    assert [entry.name for entry in entries] == ["a/9", "b/.hidden", "b/2", "Ünal^Ayşe.dcm"]
    assert [entry.ordinal for entry in entries] == [0, 1, 2, 3]
    assert "Ünal" not in repr(entries)


def test_pipes_and_links_to_folders_are_listed_and_neither_opened_nor_followed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    entries = folder.listing(tmp_path)
    assert [(entry.name, entry.regular) for entry in entries] == [("gone", False), ("loop", False), ("pipe", False)]
    assert folder.digests(tmp_path, entries, tmp_path / "cache", str) == ["unreadable"] * 3


def test_the_fingerprint_changes_with_names_and_contents_alone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"1")

    def print_() -> str:
        entries = folder.listing(tmp_path / "in")
        return folder.fingerprint(entries, folder.digests(tmp_path / "in", entries, tmp_path / "cache", str))

    first = print_()
    os.utime(tmp_path / "in" / "a", ns=(1, 1))
    assert print_() == first
    (tmp_path / "in" / "a").write_bytes(b"2")
    second = print_()
    (tmp_path / "in" / "a").rename(tmp_path / "in" / "b")
    assert len({first, second, print_()}) == 3


def test_a_broken_cache_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"1")
    (tmp_path / "cache").write_text("[1, 2")
    entries = folder.listing(tmp_path / "in")
    assert len(folder.digests(tmp_path / "in", entries, tmp_path / "cache", str)[0]) == 64
    assert len(folder.digests(tmp_path / "in", entries, tmp_path / "none" / "x" / "cache", str)[0]) == 64
