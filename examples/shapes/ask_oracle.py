"""Check a result that the gate never sees: does the oracle of the shapes world prefer the last candidate to the base?

Reads the images of the last gate decision from the store; prints the win rate with its interval and exits 1 when the
lower bound does not exceed one half.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from check_oracle import compare_folders, read_prompts

from alignment.contracts.evaluation import EvalReport
from pipelines.project.file import load_project
from pipelines.release.gate.decision_log import last_decision
from pipelines.settings import load_settings
from pipelines.store.storage import Store, open_store
from pipelines.workspace import Workspace


def main() -> int:
    """Compare and print one line."""
    settings = load_settings()
    project = load_project(Path(__file__).parents[2] / "projects" / "shapes.toml")
    decision = last_decision(Workspace(project, settings))
    if decision is None:
        print("oracle     there is no gate decision yet", file=sys.stderr)
        return 1
    store = open_store(settings.store_uri, settings)
    manifest = store.read_manifest(decision.evaluation_uri)
    assert manifest is not None
    spec = EvalReport.model_validate(manifest.value).spec
    uris = [store.uri("evaluations", "samples", spec.sample_spec(model).digest) for model in spec.models().values()]
    with TemporaryDirectory() as folder:
        candidate, _, base = (_local_folder(store, uri, Path(folder)) for uri in uris)
        found = compare_folders(candidate, base, read_prompts(Path(project.evaluation.prompts)))
    print(
        f"oracle     version {decision.candidate.version} wins {found.win_rate:.3f} of {found.num_prompts} prompts"
        f" against the base, interval {found.low:.3f} to {found.high:.3f}"
    )
    return 0 if found.low > 0.5 else 1


def _local_folder(store: Store, uri: str, scratch: Path) -> Path:
    """Return the images' folder: in place on a disk, else fetched."""
    if not uri.startswith("s3://"):
        return Path(uri.removeprefix("file://"))
    folder = scratch / uri.rpartition("/")[2]
    store.fetch_folder(uri, folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
