"""Python imports this at start where it is on the path: it writes down every host that a process asks for or connects to."""

import os
import sys

_out = os.environ.get("MEDPIPE_AUDIT")


def _hook(event, args):
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) else "unix"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    line = f"{event} {host!r} {' '.join(sys.argv[:3])}\n"
    out = os.open(f"{_out}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(out, line.encode(errors="replace"))
    os.close(out)


if _out:
    sys.addaudithook(_hook)
