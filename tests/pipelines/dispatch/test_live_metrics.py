import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from pipelines.dispatch import live_metrics
from pipelines.dispatch.live_metrics import LiveMetrics


class FakeServer:
    """A tracking server that can be down, and streams to it that keep points until they are flushed."""

    def __init__(self) -> None:
        self.up = True
        self.points: list[tuple[int, float, dict[str, float]]] = []
        self.images: list[tuple[str, str, int]] = []
        self.pictures: list[tuple[tuple[str, ...], str, tuple[int, ...]]] = []
        self.params: list[dict[str, str]] = []
        self.broken_image = ""
        self.opened = 0

    def open(self) -> "FakeStream":
        self.opened += 1
        return FakeStream(self)


class FakeStream:
    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.kept: list[tuple[int, float, dict[str, float]]] = []

    def log_metrics(self, step: int, unix_seconds: float, metrics: Mapping[str, float]) -> None:
        self.kept.append((step, unix_seconds, dict(metrics)))

    def log_image(self, path: Path, key: str, step: int) -> None:
        self._reach()
        if path.name == self.server.broken_image:
            raise ValueError(f"{path} is no PNG")
        self.server.images.append((path.name, key, step))

    def log_params(self, params: Mapping[str, str]) -> None:
        self._reach()
        self.server.params.append(dict(params))

    def show_pictures(self, pictures: Mapping[str, Image.Image], caption: str) -> None:
        self._reach()
        self.server.pictures.append((tuple(pictures), caption, tuple(image.width for image in pictures.values())))

    def flush(self) -> None:
        self._reach()
        self.server.points += self.kept
        self.kept = []

    def last_steps(self, names: Iterable[str]) -> dict[str, int]:
        self._reach()
        known = {name: [step for step, _, found in self.server.points if name in found] for name in names}
        return {name: max(steps) for name, steps in known.items() if steps}

    def _reach(self) -> None:
        if not self.server.up:
            raise RuntimeError("MLflow does not answer")


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


def follow(tmp_path: Path, server: FakeServer) -> LiveMetrics:
    return LiveMetrics(tmp_path, tmp_path / "cursor.json", server.open)


def write_steps(tmp_path: Path, *steps: int, mode: str = "a") -> None:
    with (tmp_path / "metrics.jsonl").open(mode) as stream:
        for step in steps:
            stream.write(json.dumps({"step": step, "unix_seconds": step + 0.5, "metrics": {"loss": 1 / step}}) + "\n")


def write_sample(tmp_path: Path, step: int) -> None:
    (tmp_path / "samples").mkdir(exist_ok=True)
    with (tmp_path / "samples/index.jsonl").open("a") as stream:
        line = {"step": step, "key": "samples/00", "path": f"samples/{step}.png", "prompt": "p"}
        stream.write(json.dumps(line) + "\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "samples" / f"{step}.png")


def test_new_lines_and_images_are_sent_once(tmp_path: Path, server: FakeServer) -> None:
    live = follow(tmp_path, server)
    assert live.catch_up(), "nothing is there yet, and that is fine"
    assert server.opened == 0
    write_steps(tmp_path, 1, 2)
    write_sample(tmp_path, 2)
    assert live.catch_up()
    write_steps(tmp_path, 3)
    assert live.catch_up()
    assert live.catch_up()
    assert server.points == [(1, 1.5, {"loss": 1.0}), (2, 2.5, {"loss": 0.5}), (3, 3.5, {"loss": 1 / 3})]
    assert server.images == [("2.png", "samples/00", 2)]


def test_each_step_with_images_adds_a_sheet_of_all_steps_to_the_runs_description(
    tmp_path: Path, server: FakeServer
) -> None:
    write_sample(tmp_path, 0)
    live = follow(tmp_path, server)
    assert live.catch_up()
    assert live.catch_up()
    write_sample(tmp_path, 5)
    assert live.catch_up()
    resumed = follow(tmp_path, server)
    write_sample(tmp_path, 10)
    assert resumed.catch_up()
    assert [names for names, _, _ in server.pictures] == [
        (f"samples/step_{step:08d}.png", f"samples/by_step_{step:08d}.png") for step in (0, 5, 10)
    ]
    assert [caption.split(";")[0] for _, caption, _ in server.pictures] == [
        f"Samples of step {step}" for step in (0, 5, 10)
    ]
    assert {strip for _, _, (strip, _) in server.pictures} == {72}, "one image at each step"
    widths = [width for _, _, (_, width) in server.pictures]
    assert widths == sorted(set(widths)), "a column more for each step, those before the resumption included"


def test_after_an_outage_every_point_is_sent_exactly_once(tmp_path: Path, server: FakeServer) -> None:
    live = follow(tmp_path, server)
    write_steps(tmp_path, 1)
    assert live.catch_up()
    server.up = False
    write_steps(tmp_path, 2)
    write_sample(tmp_path, 2)
    assert not live.catch_up()
    write_steps(tmp_path, 3)
    assert not live.catch_up()
    server.up = True
    assert live.catch_up()
    assert [step for step, _, _ in server.points] == [1, 2, 3]
    assert len(server.images) == 1


def test_a_resumed_attempt_sends_no_step_and_no_image_again(tmp_path: Path, server: FakeServer) -> None:
    write_steps(tmp_path, 1, 2, 3, 4)
    write_sample(tmp_path, 2)
    assert follow(tmp_path, server).catch_up()
    write_steps(tmp_path, 1, 2, mode="w")  # back to the checkpoint of step 2
    resumed = follow(tmp_path, server)
    assert resumed.catch_up()
    write_steps(tmp_path, 3, 4, 5)
    write_sample(tmp_path, 2)
    assert resumed.catch_up()
    assert [step for step, _, _ in server.points] == [1, 2, 3, 4, 5]
    assert len(server.images) == 1


@pytest.mark.parametrize("arrived", [True, False])
def test_after_a_kill_while_sending_the_server_says_which_steps_it_has(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch, arrived: bool
) -> None:
    write_steps(tmp_path, 1)
    assert follow(tmp_path, server).catch_up()
    write_steps(tmp_path, 2, 3)

    def flush_and_die(stream: FakeStream) -> None:
        if arrived:
            server.points += stream.kept
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FakeStream, "flush", flush_and_die)
        with pytest.raises(KeyboardInterrupt):
            follow(tmp_path, server).catch_up()
    write_steps(tmp_path, 1, mode="w")  # back to the checkpoint of step 1
    resumed = follow(tmp_path, server)
    write_steps(tmp_path, 2, 3, 4)
    server.up = False
    assert not resumed.catch_up()
    server.up = True
    assert resumed.catch_up()
    assert [step for step, _, _ in server.points] == [1, 2, 3, 4]


def test_the_stream_is_opened_at_once_when_a_job_begins(tmp_path: Path, server: FakeServer) -> None:
    with follow(tmp_path, server):
        pass
    assert server.opened == 1


def test_a_truncated_file_is_read_again(tmp_path: Path, server: FakeServer) -> None:
    live = follow(tmp_path, server)
    write_steps(tmp_path, 1, 2, 3, 4)
    assert live.catch_up()
    write_steps(tmp_path, 1, 2, mode="w")
    write_steps(tmp_path, 30, 40, 50, 60)  # longer than before between two reads
    assert live.catch_up()
    assert [step for step, _, _ in server.points] == [1, 2, 3, 4, 30, 40, 50, 60]


def test_a_metric_that_comes_later_for_a_known_step_is_sent(tmp_path: Path, server: FakeServer) -> None:
    live = follow(tmp_path, server)
    write_steps(tmp_path, 5)
    assert live.catch_up()
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 5, "unix_seconds": 6, "metrics": {"accuracy": 0.5, "loss": 9}}\n')
    assert live.catch_up()
    assert server.points[1:] == [(5, 6.0, {"accuracy": 0.5})]


def test_an_incomplete_line_is_held_back_and_a_torn_one_is_left_out(tmp_path: Path, server: FakeServer) -> None:
    live = follow(tmp_path, server)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "unix_seconds": 1, "metrics": {"lo')
    assert live.catch_up()
    assert server.points == []
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('ss": 2}}\n{"step": 2, "unix\n{"step": 3, "unix_seconds": 1, "metrics": {"loss": 3}}\n')
    assert live.catch_up()
    assert [step for step, _, _ in server.points] == [1, 3]


def test_a_sample_that_is_not_an_image_does_not_block_the_rest(tmp_path: Path, server: FakeServer) -> None:
    server.broken_image = "2.png"
    live = follow(tmp_path, server)
    for step in (2, 4):
        write_sample(tmp_path, step)
    assert live.catch_up()
    assert [step for _, _, step in server.images] == [4]


def test_the_thread_streams_while_the_job_runs_and_the_end_sends_the_rest(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_metrics, "POLL_SECONDS", 0.02)
    with follow(tmp_path, server):
        write_steps(tmp_path, 1)
        waited = 0
        while not server.points and waited < 200:
            live_metrics.time.sleep(0.02)
            waited += 1
        assert [step for step, _, _ in server.points] == [1]
        server.up = False
        write_steps(tmp_path, 2)
        live_metrics.time.sleep(0.1)
        server.up = True
        write_steps(tmp_path, 3)
    assert [step for step, _, _ in server.points] == [1, 2, 3]


@pytest.mark.parametrize("path", ["../secret.png", "/secret.png", "samples/link.png"])
def test_a_sample_outside_the_output_folder_is_left_out_and_does_not_block_the_rest(
    tmp_path: Path, server: FakeServer, path: str
) -> None:
    (tmp_path / "secret.png").write_text("secret")
    out = tmp_path / "out"
    (out / "samples").mkdir(parents=True)
    (out / "samples" / "link.png").symlink_to(tmp_path / "secret.png")
    with (out / "samples/index.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 2, "key": "samples/00", "path": path, "prompt": "p"}) + "\n")
    write_sample(out, 4)
    assert LiveMetrics(out, tmp_path / "cursor.json", server.open).catch_up()
    assert [step for _, _, step in server.images] == [4]


def test_the_choice_of_an_adaptive_placement_is_a_parameter_once(tmp_path: Path, server: FakeServer) -> None:
    live = follow(tmp_path, server)
    write_steps(tmp_path, 1)
    assert live.catch_up()
    assert server.params == []
    for size in (4, 2):
        choice = {"micro_batch": size, "available_gib": 1.0, "trials": []}
        (tmp_path / "placement_choice.json").write_text(json.dumps(choice))
        write_steps(tmp_path, 6 - size)
        server.up = False
        assert not live.catch_up()
        server.up = True
        assert live.catch_up()
    assert server.params == [{"placement.micro_batch": "4"}]
