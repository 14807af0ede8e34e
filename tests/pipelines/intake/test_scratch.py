import errno
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipelines.intake.scratch import remove_left_over, scratch_dir
from pipelines.settings import Settings
from pipelines.store.folders import NoSpaceError
from pipelines.store.storage import open_store

HOLDING = """
import sys, time
from pathlib import Path
from pipelines.intake.scratch import scratch_dir
from pipelines.settings import load_settings

with scratch_dir(load_settings({"PLUMBLINE_STATE_DIR": sys.argv[1]})) as folder:
    (folder / "pairs.parquet").write_bytes(b"rows")
    print(folder, flush=True)
    time.sleep(600)
"""


def scratch_folders(settings: Settings) -> list[Path]:
    return sorted((settings.state_dir / "scratch").iterdir())


@pytest.mark.parametrize("next_run", ["another folder", "the beginning of a run"])
def test_the_folder_of_a_killed_process_is_deleted_and_that_of_a_living_one_stays(
    settings: Settings, next_run: str
) -> None:
    def begin() -> None:
        if next_run == "another folder":
            with scratch_dir(settings):
                pass
        else:
            remove_left_over(settings, open_store(settings.store_uri, settings))

    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(settings.state_dir)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        begin()
        assert scratch_folders(settings) == [folder]
        assert (folder / "pairs.parquet").read_bytes() == b"rows"
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert folder.is_dir()
    begin()
    assert scratch_folders(settings) == []


def test_folders_of_one_process_do_not_end_each_other(settings: Settings) -> None:
    with scratch_dir(settings) as outer, scratch_dir(settings) as inner:
        remove_left_over(settings, open_store(settings.store_uri, settings))
        assert scratch_folders(settings) == sorted([outer, inner])
    assert scratch_folders(settings) == []


def test_many_threads_make_folders_while_others_delete_abandoned_ones(settings: Settings) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                with scratch_dir(settings) as folder:
                    (folder / "file").write_bytes(b"1")
                    assert (folder / "file").read_bytes() == b"1"
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    assert errors == []
    assert scratch_folders(settings) == []


def test_a_state_folder_that_cannot_be_made_is_named(settings: Settings) -> None:
    settings.state_dir.write_text("")
    with (
        pytest.raises(ValueError, match=r"State folder .* cannot be created.*PLUMBLINE_STATE_DIR"),
        scratch_dir(settings),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_lack_of_space_is_named_with_the_folder_and_the_remedy(settings: Settings, number: int) -> None:
    with (
        pytest.raises(NoSpaceError, match=r"^/.*/state/scratch cannot be written.*Free space.*PLUMBLINE_STATE_DIR"),
        scratch_dir(settings),
    ):
        raise OSError(number, "Error writing bytes to file")
    assert scratch_folders(settings) == []


def test_a_lack_of_space_elsewhere_keeps_its_message(settings: Settings) -> None:
    of_the_store = NoSpaceError(errno.ENOSPC, "/store/x cannot be written")
    with pytest.raises(NoSpaceError) as found, scratch_dir(settings):
        raise of_the_store
    assert found.value is of_the_store
    with pytest.raises(OSError, match="I/O") as other, scratch_dir(settings):
        raise OSError(errno.EIO, "I/O error")
    assert not isinstance(other.value, NoSpaceError)


def test_a_full_disk_refuses_the_folder_itself(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    with pytest.raises(NoSpaceError, match="Free space"), scratch_dir(settings):
        pass
