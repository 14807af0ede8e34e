"""Tasks find their slow imports done, and nothing that a fork would lose."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(180)

CHILD = """
import json, os, sys, threading
from pipelines.platform import warm_scheduler
warm_scheduler.PRELOADED = (*warm_scheduler.PRELOADED, "a_module_that_does_not_exist")
warm_scheduler.preload()
threads = [thread.name for thread in threading.enumerate()]
reader, writer = os.pipe()
if os.fork() == 0:
    known = set(sys.modules)
    import great_expectations.expectations, mlflow.pyfunc
    from pipelines.intake.rule_runs import judge
    from pipelines.intake.rules import licence_present
    from pipelines.project.sections import ValidationSection
    import pandas
    imported = len({name.partition(".")[0] for name in set(sys.modules) - known} & {"great_expectations", "mlflow"})
    data = pandas.DataFrame({"row": [0, 1], "licence": ["MIT", None]})
    (found,) = judge(data, [licence_present(ValidationSection())])
    client = mlflow.MlflowClient(f"sqlite:///{sys.argv[1]}")
    os.write(writer, json.dumps([imported, found.failed, len(client.search_experiments())]).encode())
    os._exit(0)
print(json.dumps([threads, json.loads(os.read(reader, 10_000))]))
"""


@pytest.mark.slow
def test_a_forked_task_imports_nothing_again_and_can_use_what_is_loaded(tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, f"{tmp_path}/mlflow.db"], capture_output=True, text=True, check=True, timeout=150
    )
    threads, (imported, failed, experiments) = json.loads(done.stdout.splitlines()[-1])
    assert threads == ["MainThread"]
    assert imported == 0
    assert (failed, experiments) == (1, 1)
    assert "a_module_that_does_not_exist was not loaded" in done.stderr
