"""Composition: the chain and each of its stages as Prefect flows. A flow reads like a sentence."""

import tasks as tasks  # first of all: it sets Prefect's surroundings, which Prefect reads when it is imported
