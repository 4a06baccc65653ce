"""Runs ``hansa`` commands, each in a process of its own, without importing the packages anew for each of them.

A command takes a second of imports and milliseconds of work. This process imports once and forks; it opens no channel,
no database and no thread itself. Started as ``python -m tests.chaos.command_server``: a JSON line in, one out.
"""

import json
import os
import signal
import sys
from pathlib import Path

import hansa_server.federation.founding
import hansa_server.federation_cli
import hansa_server.simulation  # noqa: F401 - imported for the children
from hansa_common.cli import build, main


def run(request: dict[str, object]) -> int:
    """Run one command in a child; its output goes to the files that the request names."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            target = os.open(str(request[name]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(target, descriptor)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.environ.clear()
        os.environ.update({str(key): str(value) for key, value in dict(request["environment"]).items()})  # type: ignore[call-overload]
        os.chdir(str(request["folder"]))
        sys.argv = ["hansa", *map(str, list(request["arguments"]))]  # type: ignore[call-overload]
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1 if code else 0)
    except BaseException:  # noqa: BLE001 - as the interpreter would
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    build()
    for line in sys.stdin:
        request = json.loads(line)
        request["code"] = run(request)
        for name in ("stdout", "stderr"):
            request[name] = Path(str(request[name])).read_text(errors="replace")
        print(json.dumps(request), flush=True)
