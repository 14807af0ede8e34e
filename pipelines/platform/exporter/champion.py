"""Champion and ledger: the version in service, the moves, and whether alias and ledger agree."""

from pipelines.platform.exporter.metrics import Metric, Reading, Sample
from pipelines.release.champion import ledger
from pipelines.release.champion.state import read_state
from pipelines.tracking.errors import TrackingRefused

_AGREES = Metric(
    "plumbline_ledger_agrees",
    "1 if the alias champion names the version of the last ledger entry and the ledger is unchanged, else 0.",
    ("project",),
)
_ENTRIES = Metric("plumbline_ledger_entries", "Entries of the ledger.", ("project",))
_LAST_MOVE = Metric("plumbline_ledger_last_move_timestamp_seconds", "Time of the last ledger entry.", ("project",))
_VERSION = Metric("plumbline_champion_version", "Version of the champion; 0 for the base model.", ("project",))
METRICS = (_AGREES, _ENTRIES, _LAST_MOVE, _VERSION)


def read(reading: Reading) -> list[Sample]:
    """Compare alias and ledger of a project. A changed ledger is a disagreement; an unreachable MLflow is an error."""
    name = reading.workspace.project.name
    try:
        state = read_state(name, reading.settings)
    except TrackingRefused:
        raise
    except ValueError:
        return [_AGREES.of(0, name)]
    agrees = ledger.agrees_with_aliases(state.entries, state.champion) and not state.problem and not state.unfinished
    samples = [_AGREES.of(agrees, name), _ENTRIES.of(len(state.entries), name), _VERSION.of(state.champion or 0, name)]
    if state.entries:
        samples.append(_LAST_MOVE.of(state.entries[-1].at.timestamp(), name))
    return samples
