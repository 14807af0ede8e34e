"""With a key, only what was signed with it becomes champion. (Digests are tested where the alias moves.)"""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pipelines import registry
from pipelines.release import ledger, signing
from pipelines.release.promotion import promote, rollback
from pipelines.settings import Settings

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
    assert promote(keyed.decide(first, None), keyed.project, promoter, "tester").moved
    assert promote(keyed.decide(keyed.register("b"), first), keyed.project, promoter, "tester").moved
    Path(urlsplit(tags[signing.URI_TAG]).path).unlink()
    with pytest.raises(ValueError, match=r"Version 1 .* may not be champion: its signature .* is gone"):
        rollback(keyed.project, promoter, "tester", "too dark")


def test_unsigned_weights_are_refused_until_they_are_registered_where_the_key_is(keyed: Any) -> None:
    signer = keyed.settings
    keyed.settings = without_signing(signer)
    trained = keyed.train("a")
    from pipelines.release.registration import register

    def registered(settings: Settings) -> Any:
        return register(trained, keyed.project, settings, snapshot=keyed.snapshot, run_id=keyed.run_id)

    decision = keyed.decide(registered(keyed.settings), None)
    with pytest.raises(ValueError, match="it is not signed, and PLUMBLINE_VERIFY_KEY asks for a signature"):
        promote(decision, keyed.project, keyed.settings, "tester")
    assert ledger.entries(keyed.project.name, keyed.settings) == ()
    assert registered(signer) == decision.candidate, "the same version, now signed"
    assert promote(decision, keyed.project, keyed.settings, "tester").moved


def test_a_signature_over_other_weights_is_refused(keyed: Any) -> None:
    keyed.register("a")
    second = keyed.register("b")
    tags = registry.version_tags(keyed.settings, keyed.project.name, 1) or {}
    stolen = {name: tags[name] for name in (signing.URI_TAG, signing.SHA256_TAG)}
    registry.set_version_tags(keyed.settings, keyed.project.name, 2, stolen)
    with pytest.raises(ValueError, match="its signature does not hold"):
        promote(keyed.decide(second, None), keyed.project, keyed.settings, "tester")
