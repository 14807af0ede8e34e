"""A worker for the engines' contract: counts to a number in its work folder, one number each tenth of a second.

It resumes where the last attempt stopped, has a child in a separate session, as a training launcher has, and ends as
the spec states. On SIGTERM it writes its position and exits 143.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from alignment.contracts.jobs import JobFailure, Progress
from pipelines.contracts.jobs import JobRequest
from pipelines.settings import load_settings
from pipelines.store.storage import open_store

CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)"


def main(job_dir: Path) -> int:
    request = JobRequest.model_validate_json((job_dir / "request.json").read_bytes())
    out = job_dir / "work" / "out"
    out.mkdir(parents=True, exist_ok=True)
    spec = request.spec
    if spec.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    child = subprocess.Popen([sys.executable, "-c", CHILD], start_new_session=True)
    pids = out / "pids.new"
    pids.write_text(json.dumps({"worker": os.getpid(), "child": child.pid, "parent": os.getppid()}))
    # Whole or not at all: a test reads it at any moment.
    pids.replace(out / "pids.json")
    place = out / "count"
    print(f"counting from {place.read_text() if place.exists() else 0}", flush=True)
    for number in range(int(place.read_text()) if place.exists() else 0, spec["count"]):
        print(f"number {number + 1}", flush=True)
        # Replaced in one step: a signal between truncating and writing would leave an empty file to resume from.
        (out / "count.new").write_text(str(number + 1))
        (out / "count.new").replace(place)
        progress = Progress(done=number + 1, total=spec["count"], unit="steps")
        (out / "progress.json").write_text(progress.model_dump_json())
        time.sleep(0.1)
        if spec.get("crash_at") == number + 1 and not (out / "crashed").exists():
            (out / "crashed").touch()
            return 7
    if spec.get("fail"):
        failure = JobFailure(kind=spec["fail"], message=f"it is {spec['fail']}")
        (job_dir / "failure.json").write_text(failure.model_dump_json())
        return 2
    settings = load_settings()
    store = open_store(settings.store_uri, settings)
    store.publish_folder(out, request.output_uri, {"counted": spec["count"], "uri": request.output_uri})
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
