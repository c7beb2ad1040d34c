"""The public face: what `import medpipe` gives is what `__all__` says."""

from __future__ import annotations

import subprocess
import sys

import pytest

import medpipe


def test_the_public_names_are_sorted_and_all_there() -> None:
    assert medpipe.__all__ == sorted(medpipe.__all__)
    assert set(medpipe.__all__) == set(medpipe._HOMES)
    for name in medpipe.__all__:
        assert getattr(medpipe, name) is not None
        assert name in dir(medpipe)


def test_no_other_public_name_is_there_than_said() -> None:
    modules = {"medpipe", "TYPE_CHECKING", "Any", "import_module"}
    code = "import medpipe; print(*(name for name in vars(medpipe) if not name.startswith('_')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(found) <= set(medpipe.__all__) | modules


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'publish_everything'"):
        _ = medpipe.publish_everything


@pytest.mark.parametrize("first", ["import medpipe.release.release", "from medpipe import chain", "import medpipe"])
def test_release_is_the_verb_and_never_the_room_of_the_same_name(first: str) -> None:
    same = "assert release is medpipe.release; print(release.__name__, callable(release))"
    code = f"{first}; import medpipe; from medpipe import release; {same}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["release", "True"]


def test_the_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import version

    assert medpipe.__version__ == version("medpipe")
