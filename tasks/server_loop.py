"""An event loop for Prefect's server in which no garbage collection can stand in the way: `UVICORN_LOOP=tasks.server_loop:loop`.

The server writes to sqlite through one thread per connection. Where Python's cyclic collector runs in the loop's thread
and finalises a cursor of a connection whose own thread waits for the write lock, sqlite lets the loop wait for that
connection; whoever holds the lock needs the loop to go on, and all stand still until sqlite gives up after 60 s. One
refresh in about ten met it on two busy cores. Here the collector runs in a thread of its own, which may wait.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time

YOUNG_S = 1
"""Seconds between two collections of young objects."""
ALL_EVERY = 60
"""One collection in so many is of all objects, which takes most of a second."""


def loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop for a process whose collector is off but for a thread that calls it."""
    gc.disable()
    threading.Thread(target=_collect, name="garbage-collector", daemon=True).start()
    return asyncio.new_event_loop()


def _collect() -> None:
    turn = 0
    while True:
        time.sleep(YOUNG_S)
        turn += 1
        gc.collect(2 if turn % ALL_EVERY == 0 else 1)
