"""The judges that a project has trained for itself: numbered records in the store, the newest of a name is the one.

A section names one as `reward://NAME`. Whoever makes a spec of it puts the digest of that moment into the spec, so a
judge that is trained anew changes no work that has begun.
"""

from alignment.contracts.reward_models import RewardTrainResult
from pipelines.contracts.judges import RegisteredJudge
from pipelines.project.sections import REWARD_SCHEME
from pipelines.records.series import Series, series_of_models
from pipelines.store.storage import Store


def publish(judge: RegisteredJudge, store: Store) -> RegisteredJudge:
    """Make a judge the newest of its name, unless it is that already; the record as it stands.

    Its number is one more than the last. ValueError when the store does not hold the finished training it names.
    """
    manifest = store.read_manifest(judge.uri)
    if manifest is None or RewardTrainResult.model_validate(manifest.value).judge_digest != judge.judge_digest:
        raise ValueError(f"{judge.uri} does not hold judge {judge.judge_digest[:12]}. Train the reward anew.")

    def propose(number: int, last: RegisteredJudge | None) -> RegisteredJudge | None:
        if last is not None and last == judge.model_copy(update={"number": last.number}):
            return None
        return judge.model_copy(update={"number": number})

    return _series(judge.project, judge.name, store).append(propose)


def newest(project: str, name: str, store: Store) -> RegisteredJudge | None:
    """The judge that was registered last under a name; None while there is none."""
    return _series(project, name, store).last()[1]


def find(uri: str, project: str, store: Store) -> RegisteredJudge:
    """The judge behind `reward://NAME`, as it stands now; ValueError while nobody has trained it."""
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
