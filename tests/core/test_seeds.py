"""Seeds: stable for ever, since every released cohort names its seed."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from medpipe.seeds import child, generator


def test_children_keep_their_values_for_ever() -> None:
    assert [child(0), child(0, "train"), child(7, "sample", 12)] == [3456079177858693020, 2247946608620987588, 3161135792645709300]
    assert generator(0, "train").integers(0, 1000, 4).tolist() == [82, 939, 904, 272]


def test_another_process_with_another_hash_seed_draws_the_same() -> None:
    code = "from medpipe.seeds import child, generator; print(child(5, 'a', 1), generator(5, 'a').normal())"
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


names = st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x1f"), max_size=8) | st.integers(0, 99), max_size=3)


@given(st.integers(0, 2**31 - 1), names, names)
def test_children_of_other_names_differ(seed: int, one: list[str | int], two: list[str | int]) -> None:
    same = [str(part) for part in one] == [str(part) for part in two]
    assert (child(seed, *one) == child(seed, *two)) == same


@given(st.integers(0, 2**31 - 1), names)
def test_a_child_is_a_63_bit_number(seed: int, parts: list[str | int]) -> None:
    assert 0 <= child(seed, *parts) < 2**63
