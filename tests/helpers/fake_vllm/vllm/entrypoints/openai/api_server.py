"""Stands in for vLLM's server where tests start one: the same command line, the answers of chance.

Further arguments make it go wrong: `--die` before it answers, `--never-ready`, `--deaf` to SIGTERM,
`--die-when-asked`. Its process and one that it starts write their numbers into `--pids FILE`.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[4]))

from chat_server import PROBE, ChatServer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--pids", type=Path)
    for flag in ("--die", "--never-ready", "--deaf", "--die-when-asked"):
        parser.add_argument(flag, action="store_true")
    asked, others = parser.parse_known_args()
    print("started with", *others, flush=True)
    if asked.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if asked.pids:
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        asked.pids.write_text(f"{os.getpid()} {worker.pid}")
    if asked.die:
        sys.exit("out of memory, as it were")

    def script(question: str, n_times: int) -> None:
        if asked.die_when_asked and question != PROBE:
            print("broken while it worked", flush=True)
            os._exit(3)

    if not asked.never_ready:
        key = os.environ["VLLM_API_KEY"]
        ChatServer(model=asked.served_model_name, key=key, script=script, port=asked.port).start()
    time.sleep(60)


if __name__ == "__main__":
    main()
