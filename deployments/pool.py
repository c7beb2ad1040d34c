"""`python -m deployments.pool NAME`: the work pool and the zombie automation of the server that PREFECT_API_URL names."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from tasks.environment import settle

settle()

from prefect.client.orchestration import get_client  # noqa: E402 - Prefect reads its surroundings when it is imported
from prefect.client.schemas.actions import WorkPoolCreate  # noqa: E402
from prefect.exceptions import ObjectAlreadyExists  # noqa: E402
from prefect.workers.process import ProcessWorker  # noqa: E402

from deployments.automation import establish  # noqa: E402


async def prepare(pool: str) -> None:
    """Create the pool where it is not there, and the automation."""
    template = ProcessWorker.get_default_base_job_template()
    async with get_client() as client:
        with suppress(ObjectAlreadyExists):  # what a person changed in the pool stays
            await client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
        await establish(client)


if __name__ == "__main__":
    asyncio.run(prepare(sys.argv[1]))
