"""Runs an OpenWhisk action: reads one JSON object per line from standard input, writes one to a file descriptor.

`emulators.openwhisk.proxy` starts it in the folder of the action's code.
"""

import json
import os
import sys
import traceback
from importlib import import_module


def serve(fd: int, function: str) -> None:
    """Import the action, confirm that, and serve calls until the input ends.

    Args:
        fd: file descriptor for the results.
        function: name of the action's function.
    """
    sys.path[0] = os.getcwd()  # noqa: PTH109 (as the real launcher; it also hides the modules beside this file)
    main = getattr(import_module("main__"), function)
    with os.fdopen(fd, "w", encoding="utf-8") as out:
        print('{"ok": true}', file=out, flush=True)
        for line in sys.stdin:
            call = json.loads(line)
            value = call.pop("value", {})
            for name, text in call.items():
                # A value that is not a text ends the process, as in the real launcher.
                os.environ[f"__OW_{name.upper()}"] = text
            try:
                result = main(value)
            except Exception as exc:  # noqa: BLE001 (an error of an action is its result)
                traceback.print_exc()
                result = {"error": str(exc)}
            sys.stdout.flush()
            print(json.dumps(result), file=out, flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
