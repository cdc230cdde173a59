"""Runs an OpenWhisk action: one JSON object per line from standard input, one per line to a file descriptor.

Started by `action_proxy` in the folder of the action's code.
"""

import json
import os
import sys
import traceback
from importlib import import_module


def serve(fd: int, function: str) -> None:
    """Import the action, say so, and answer until the input ends."""
    sys.path[0] = os.getcwd()  # noqa: PTH109 (the real launcher's modules come from there, this file's neighbours do not)
    main = getattr(import_module("main__"), function)
    with os.fdopen(fd, "w", encoding="utf-8") as out:
        print('{"ok": true}', file=out, flush=True)
        for line in sys.stdin:
            call = json.loads(line)
            value = call.pop("value", {})
            for name, text in call.items():
                os.environ[f"__OW_{name.upper()}"] = (
                    text  # what is no text ends the process, as it does in the real one
                )
            try:
                result = main(value)
            except Exception as exc:  # noqa: BLE001 (the contract: whatever an action raises is its answer)
                traceback.print_exc()
                result = {"error": str(exc)}
            sys.stdout.flush()
            print(json.dumps(result), file=out, flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
