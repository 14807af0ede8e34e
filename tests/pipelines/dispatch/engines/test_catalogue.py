from pathlib import Path

import pytest

from alignment.catalogues.lookup import resolve
from pipelines.dispatch.engines.catalogue import ENGINES, open_engine
from pipelines.dispatch.engines.local import LocalEngine
from pipelines.settings import load_settings


def test_every_entry_resolves_and_has_all_methods_of_the_interface() -> None:
    for params in ENGINES:
        engine = resolve(params.implementation)
        for method in ("submit", "status", "logs", "log_location", "cancel", "result"):
            assert callable(getattr(engine, method)), f"{params.implementation} has no {method}"


def test_an_engine_is_opened_by_name_and_an_unknown_name_gets_a_suggestion(tmp_path: Path) -> None:
    settings = load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)})
    assert isinstance(open_engine("local", settings), LocalEngine)
    with pytest.raises(ValueError, match=r"Unknown engine 'locl'\. Did you mean 'local'\? Known: local, ray\."):
        open_engine("locl", settings)
