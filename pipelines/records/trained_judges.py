"""Judges that a project trained: numbered records in the store, of which the newest of a name is used.

A section refers to one as `reward://NAME`. A spec contains the digest of the judge at the time the spec was made, so
training the judge again does not change jobs that are already specified.
"""

from alignment.contracts.reward_models import RewardTrainResult
from pipelines.contracts.judges import RegisteredJudge
from pipelines.project.sections import REWARD_SCHEME
from pipelines.records.series import Series, series_of_models
from pipelines.store.storage import Store


def publish(judge: RegisteredJudge, store: Store) -> RegisteredJudge:
    """Store a judge as the newest of its name, unless it is the newest already; return the stored record.

    Its number is one more than the last. ValueError when the store does not have the finished training that it names.
    """
    manifest = store.read_manifest(judge.uri)
    if manifest is None or RewardTrainResult.model_validate(manifest.value).judge_digest != judge.judge_digest:
        raise ValueError(f"{judge.uri} does not contain judge {judge.judge_digest[:12]}. Train the reward again.")

    def propose(number: int, last: RegisteredJudge | None) -> RegisteredJudge | None:
        if last is not None and last == judge.model_copy(update={"number": last.number}):
            return None
        return judge.model_copy(update={"number": number})

    return _series(judge.project, judge.name, store).append(propose)


def newest(project: str, name: str, store: Store) -> RegisteredJudge | None:
    """Find the judge that was registered last under a name; None if there is none."""
    return _series(project, name, store).last()[1]


def find(uri: str, project: str, store: Store) -> RegisteredJudge:
    """Find the current judge of `reward://NAME`; ValueError if it is not trained yet."""
    name = uri.removeprefix(REWARD_SCHEME)
    judge = newest(project, name, store)
    if judge is None:
        raise ValueError(
            f"No judge {name!r} is registered yet. Run `plumbline reward projects/{project}.toml`, or the DAG"
            f" {project}.reward."
        )
    return judge


def _series(project: str, name: str, store: Store) -> Series[RegisteredJudge]:
    return series_of_models(store, "judges", project, name, model=RegisteredJudge)
