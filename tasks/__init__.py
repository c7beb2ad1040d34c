"""One thin Prefect task per verb: retries, timeouts, tags, progress, artifacts, and the Dask client. No science."""

from tasks.environment import settle

settle()
