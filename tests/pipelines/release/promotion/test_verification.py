"""With a key, only what was signed with it becomes champion. (Digests are tested where the alias moves.)"""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pipelines.release.champion import ledger
from pipelines.release.promotion.promote import promote
from pipelines.release.promotion.rollback import rollback
from pipelines.release.registration import served_files, signing
from pipelines.settings import Settings
from pipelines.store.storage import open_store
from pipelines.tracking import registry, runs
from pipelines.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def keyed(world: Any, tmp_path: Path) -> Any:
    """The world with a key pair."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    world.settings = world.settings.model_copy(update={"signing_key": private, "verify_key": public})
    return world


def without_signing(settings: Settings) -> Settings:
    return settings.model_copy(update={"signing_key": None})


def test_signed_at_registration_verified_at_promotion_and_rollback(keyed: Any) -> None:
    first = keyed.register("a")
    tags = registry.version_tags(keyed.settings, keyed.project.name, 1)
    assert tags is not None
    assert tags[signing.URI_TAG].startswith(keyed.store.uri("signatures", keyed.project.name))
    promoter = without_signing(keyed.settings)
    assert promote(keyed.decide(first, None), Workspace(keyed.project, promoter), "tester").moved
    assert promote(keyed.decide(keyed.register("b"), first), Workspace(keyed.project, promoter), "tester").moved
    Path(urlsplit(tags[signing.URI_TAG]).path).unlink()
    with pytest.raises(ValueError, match=r"Version 1 .* may not become champion: its signature .* is not in the store"):
        rollback(Workspace(keyed.project, promoter), "tester", "too dark")


def test_unsigned_weights_are_refused_until_they_are_registered_where_the_key_is(keyed: Any) -> None:
    signer = keyed.settings
    keyed.settings = without_signing(signer)
    trained = keyed.train("a")
    from pipelines.release.registration.candidates import register

    def registered(settings: Settings) -> Any:
        return register(trained, Workspace(keyed.project, settings), snapshot=keyed.snapshot, run_id=keyed.run_id)

    candidate = registered(keyed.settings)
    decision = keyed.decide(candidate, None)
    with pytest.raises(ValueError, match="it is not signed, but PLUMBLINE_VERIFY_KEY requires a signature"):
        promote(decision, Workspace(keyed.project, keyed.settings), "tester")
    assert ledger.entries(keyed.project.name, open_store(keyed.settings.store_uri, keyed.settings)) == ()
    assert registered(signer) == decision.candidate, "the same version, now signed"
    assert promote(decision, Workspace(keyed.project, keyed.settings), "tester").moved


def test_a_signature_over_other_weights_is_refused(keyed: Any) -> None:
    keyed.register("a")
    second = keyed.register("b")
    tags = registry.version_tags(keyed.settings, keyed.project.name, 1) or {}
    stolen = {name: tags[name] for name in (signing.URI_TAG, signing.SHA256_TAG)}
    registry.set_version_tags(keyed.settings, keyed.project.name, 2, stolen)
    with pytest.raises(ValueError, match="its signature is not valid"):
        promote(keyed.decide(second, None), Workspace(keyed.project, keyed.settings), "tester")


def change_code(world: Any, version: int) -> Path:
    """Another line in what MLflow serves for a version; the folder as it is served then."""
    settings, model = world.settings, world.project.name
    served = Path(registry.fetch_served(settings, model, version, world.folder / "changed"))
    (served / "pyfunc_model.py").write_text("# another line\n")
    with runs.connect(settings.tracking_uri) as client:
        source = client.get_model_version(model, str(version)).source
        client.log_model_artifacts(source.removeprefix("models:/"), str(served))
    return served


def test_a_signature_is_over_all_that_is_served(keyed: Any) -> None:
    """A user with write access to MLflow and the store can record other code, but cannot sign it without the key."""
    candidate = keyed.register("a")
    decision = keyed.decide(candidate, None)
    served = change_code(keyed, 1)
    served_files.record(
        served, keyed.project.name, candidate.weights_digest, open_store(keyed.settings.store_uri, keyed.settings)
    )
    with pytest.raises(ValueError, match=r"Version 1 .* may not become champion: its signature is not valid"):
        promote(decision, Workspace(keyed.project, keyed.settings), "tester")
    assert ledger.entries(keyed.project.name, open_store(keyed.settings.store_uri, keyed.settings)) == ()


def test_files_changed_before_the_key_existed_are_not_signed(keyed: Any) -> None:
    from pipelines.release.registration.candidates import register

    trained = keyed.train("a")
    settings, place = keyed.settings, {"snapshot": keyed.snapshot, "run_id": keyed.run_id}
    register(trained, Workspace(keyed.project, without_signing(settings)), **place)
    change_code(keyed, 1)
    with pytest.raises(ValueError, match=r"Version 1 .* was not signed: pyfunc_model\.py differ"):
        register(trained, Workspace(keyed.project, settings), **place)
    assert signing.URI_TAG not in (registry.version_tags(settings, keyed.project.name, 1) or {})
