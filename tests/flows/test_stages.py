from __future__ import annotations

import ast
from pathlib import Path

from prefect import Task
from prefect.cache_policies import NO_CACHE

from tasks import stages

TASKS = {name: value for name, value in vars(stages).items() if isinstance(value, Task)}


def test_every_stage_is_retried_limited_and_kept_out_of_prefects_cache() -> None:
    assert set(TASKS) == {
        "plan",
        "phantom_hospital",
        "deidentify",
        "preprocess",
        "train",
        "generate",
        "validate",
        "audit",
        "release",
        "withdraw",
    }
    for task in TASKS.values():
        assert task.retries == 2
        assert task.retry_condition_fn is not None
        assert task.timeout_seconds
        assert task.cache_policy == NO_CACHE
        assert task.persist_result is False
        assert task.description
    assert {name for name, task in TASKS.items() if "device" in task.tags} == {"train", "generate"}


def test_a_stage_decides_nothing_and_computes_nothing() -> None:
    tree = ast.parse(Path(stages.__file__).read_text())
    bodies = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in TASKS}
    assert set(bodies) == set(TASKS)
    forbidden = (ast.If, ast.IfExp, ast.For, ast.While, ast.comprehension, ast.Compare)
    assert not [name for name, body in bodies.items() if any(isinstance(node, forbidden) for node in ast.walk(body))]
