"""The server's event loop: collection happens, and not in the loop's thread (there it could stand still for a minute)."""

from __future__ import annotations

import os
import subprocess
import sys

import uvicorn
from uvicorn.main import main

from tasks import server_loop

SEEN = """
import asyncio, gc, threading
from tasks import server_loop
server_loop.YOUNG_S = 0.05
where = []
class Noted:
    def __del__(self):
        where.append(threading.current_thread().name)
async def work():
    for _ in range(200):
        noted = Noted()
        noted.itself = noted
        del noted
        await asyncio.sleep(0.005)
runner = asyncio.Runner(loop_factory=server_loop.loop)
runner.run(work())
print(len(where) > 50, *sorted(set(where)))
"""


def test_the_local_servers_uvicorn_takes_the_loop() -> None:
    assert main.context_settings["auto_envvar_prefix"] == "UVICORN"
    assert uvicorn.Config("unused:app", loop=os.environ["UVICORN_LOOP"]).get_loop_factory() is server_loop.loop


def test_garbage_is_collected_in_a_thread_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", SEEN], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "garbage-collector"]
