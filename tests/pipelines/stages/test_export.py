"""`plumbline export` at a shell, from a registered version to a folder and to a server with the hub's API."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import load_file, save_file

from alignment.contracts.training import TrainResult
from pipelines.commands.cli import main
from pipelines.contracts.release import CandidateVersion
from pipelines.release.registration.candidates import register
from pipelines.store.folders import hash_folder
from pipelines.tracking import registry
from pipelines.workspace import Workspace

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TOKEN = "hf_open_sesame"


@pytest.fixture
def path(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The world's project as a file, in a current folder that is empty otherwise."""
    monkeypatch.setenv("PLUMBLINE_STORE_URI", world.settings.store_uri)
    monkeypatch.setenv("PLUMBLINE_STATE_DIR", str(world.settings.state_dir))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.settings.tracking_uri)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    text = (ROOT / "projects" / "shapes.toml").read_text().replace('"../examples', f'"{ROOT}/examples')
    file = tmp_path / f"{world.project.name}.toml"
    file.write_text(text.replace('name = "shapes"', f'name = "{world.project.name}"', 1))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return str(file)


def trained(world: Any, name: str, kind: Any = "lora") -> TrainResult:
    """A finished training with an adapter of one layer, rank 2 and alpha 6, or with a denoiser."""
    weights_dir = world.folder / name / "weights"
    weights_dir.mkdir(parents=True)
    if kind == "lora":
        ends = {"down": (2, 4), "up": (3, 2)}
        rng = np.random.default_rng(len(name))
        tensors = {f"unet.{LAYER}.lora.{e}.weight": rng.normal(size=s).astype(np.float32) for e, s in ends.items()}
        metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 6})}
        save_file(tensors, weights_dir / "pytorch_lora_weights.safetensors", metadata)
    else:
        (weights_dir / "unet").mkdir()
        (weights_dir / "unet" / "config.json").write_text("{}")
        save_file({"conv_in.weight": np.ones(3, np.float32)}, weights_dir / "unet" / "weights.safetensors")
    result = TrainResult(
        uri=world.store.uri("jobs", name),
        spec_digest="5bec" * 16,
        kind=kind,
        weights_digest=hash_folder(weights_dir)[0],
        base_digest=world.base_digest,
        steps=100,
        num_pairs=400,
        final_metrics={"loss": 0.6},
    )
    world.store.publish_folder(weights_dir.parent, result.uri, result.model_dump(mode="json"))
    return result


@pytest.fixture
def registered(world: Any) -> Callable[..., CandidateVersion]:
    def make(name: str, kind: Any = "lora") -> CandidateVersion:
        workspace = Workspace(world.project, world.settings)
        return register(trained(world, name, kind), workspace, snapshot=world.snapshot, run_id=world.run_id)

    return make


def exported(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The JSON of a successful export."""
    capsys.readouterr()
    assert main(["export", *arguments, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a refused export."""
    capsys.readouterr()
    assert main(["export", *arguments]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("plumbline: ")]
    return line


def test_a_judged_version_becomes_a_folder_with_its_card(
    world: Any, path: str, registered: Callable[..., CandidateVersion], capsys: pytest.CaptureFixture[str]
) -> None:
    candidate = registered("a")
    decision = world.decide(candidate, None)
    answer = exported(capsys, path, "--version", "1", "--format", "kohya")
    name = world.project.name
    folder = Path.cwd() / f"{name}-v1-kohya"
    assert answer == {
        "version": 1,
        "format": "kohya",
        "folder": str(folder),
        "files": ["README.md", f"{name}-v1.safetensors"],
        "weights_digest": candidate.weights_digest,
    }
    assert sorted(file.name for file in Path.cwd().iterdir()) == [folder.name], "no draft is left"
    assert load_file(folder / f"{name}-v1.safetensors")[f"lora_unet_{LAYER.replace('.', '_')}.alpha"] == 6
    card = ModelCard.load(folder / "README.md")
    assert card.data.tags is not None
    assert card.data.tags[-2:] == ["lora", "kohya"]
    assert f"**Gate: {decision.verdict}.**" in card.text
    assert candidate.weights_digest in card.text
    assert "--network_weights" in card.text
    for address in (world.settings.store_uri, str(world.folder), "mlflow"):
        assert address not in card.text, "addresses of this installation"


def test_the_champion_is_exported_by_default_and_a_version_without_a_verdict_is_marked(
    world: Any, path: str, registered: Callable[..., CandidateVersion], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has no champion: the base model is in place. Train one first." in refused(capsys, path, "--format", "kohya")
    registered("a")
    assert "Give --version with one of these: 1." in refused(capsys, path, "--format", "kohya")
    out = Path.cwd() / "new" / "folder"
    answer = exported(capsys, path, "--version", "1", "--format", "diffusers", "--out", str(out))
    assert answer["files"] == ["README.md", "pytorch_lora_weights.safetensors"]
    text = (out / "README.md").read_text()
    assert "**No verdict.**" in text
    assert 'pipeline.load_lora_weights(".")' in text


def test_bad_input_is_one_error_and_nothing_is_written(
    world: Any, path: str, registered: Callable[..., CandidateVersion], capsys: pytest.CaptureFixture[str]
) -> None:
    registered("a")
    registered("whole", "full")
    kohya = ("--format", "kohya")
    assert "Did you mean 'comfyui'?" in refused(capsys, path, "--version", "1", "--format", "comfy")
    assert "has no version 7. Give --version with one of these: 1, 2." in refused(
        capsys, path, "--version", "7", *kohya
    )
    assert "Possible: diffusers, comfyui" in refused(capsys, path, "--version", "2", *kohya)
    assert "Write hub://owner/name" in refused(capsys, path, "--version", "1", *kohya, "--push", "owner/name")
    assert "Set HF_TOKEN" in refused(capsys, path, "--version", "1", *kohya, "--push", "hub://owner/name")
    assert list(Path.cwd().iterdir()) == []
    (Path.cwd() / "full").mkdir()
    (Path.cwd() / "full" / "notes.txt").write_text("mine")
    assert "full is not an empty folder" in refused(capsys, path, "--version", "1", *kohya, "--out", "full")
    assert [file.name for file in Path.cwd().rglob("*")] == ["full", "notes.txt"]


def test_weights_that_are_gone_or_changed_are_refused(
    world: Any, path: str, registered: Callable[..., CandidateVersion], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = registered("gone")
    for uri in world.store.list_uris(gone.weights_uri):
        world.store.delete(uri)
    assert "was never finished" in refused(capsys, path, "--version", "1", "--format", "kohya")
    changed = registered("changed")
    tag = {registry.WEIGHTS_TAG: "0" * 64}
    registry.set_version_tags(world.settings, changed.model, changed.version, tag)
    assert f"{'0' * 64} was expected" in refused(capsys, path, "--version", "2", "--format", "kohya", "--out", "x/y")
    assert list(Path.cwd().iterdir()) == []


def test_a_full_fine_tune_is_pushed_with_its_card(
    world: Any,
    path: str,
    registered: Callable[..., CandidateVersion],
    hub_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", hub_server.address)
    registered("whole", "full")
    arguments = (path, "--version", "1", "--format", "diffusers", "--out", "out", "--push", "hub://owner/name")
    assert main(["-v", "export", *arguments, "--json"]) == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out)["commit"].endswith(f"/owner/name/commit/{'c' * 40}")
    assert TOKEN not in shown.out + shown.err
    written = {str(file.relative_to("out")): file.read_bytes() for file in Path("out").rglob("*") if file.is_file()}
    assert hub_server.files == written
    assert set(written) == {"README.md", "unet/config.json", "unet/weights.safetensors"}
    assert 'type(pipeline.unet).from_pretrained("owner/name", subfolder="unet"' in written["README.md"].decode()

    hub_server.refuses = True
    again = (path, "--version", "1", "--format", "diffusers", "--out", "again", "--push", "hub://owner/name")
    assert main(["export", *again]) == 1
    assert "The push to owner/name failed" in capfd.readouterr().err
    assert {file.name for file in Path("again").iterdir()} == {"README.md", "unet"}, "the folder is complete"
