"""A signature holds for the folder and the key that it was made with, and for nothing else."""

import logging
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pydantic import SecretStr

from pipelines.release.registration import signing
from pipelines.settings import Settings


def write_keys(folder: Path, name: str, password: str = "") -> tuple[Path, Path]:
    """Private and public key on P-256, as `openssl ecparam` would write them."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keyed(settings: Settings, tmp_path: Path) -> Settings:
    private, public = write_keys(tmp_path, "ours")
    return settings.model_copy(update={"signing_key": private, "verify_key": public})


@pytest.fixture
def weights_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "result" / "weights"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder


def test_without_keys_nothing_is_signed_and_nothing_asked(settings: Settings, weights_dir: Path) -> None:
    assert signing.sign(weights_dir, "shapes", settings) == {}
    assert signing.verify(weights_dir, {}, settings) == ""
    assert signing.check_keys(settings).startswith("no key is set")


def test_a_signed_folder_verifies_wherever_it_lies(keyed: Settings, weights_dir: Path, tmp_path: Path) -> None:
    tags = signing.sign(weights_dir, "shapes", keyed)
    assert tags[signing.URI_TAG].endswith(f"/signatures/shapes/{tags[signing.SHA256_TAG]}.json")
    assert signing.verify(weights_dir, tags, keyed) == ""
    elsewhere = weights_dir.rename(tmp_path / "weights")
    assert signing.verify(elsewhere, tags, keyed) == ""


def test_changed_added_and_removed_files_are_noticed(keyed: Settings, weights_dir: Path) -> None:
    tags = signing.sign(weights_dir, "shapes", keyed)
    config = weights_dir / "config.json"
    for break_it, restore in (
        (lambda: config.write_text("{ }"), lambda: config.write_text("{}")),
        (lambda: (weights_dir / "more").write_text("x"), lambda: (weights_dir / "more").unlink()),
        (config.unlink, lambda: config.write_text("{}")),
    ):
        break_it()
        assert "its signature is not valid" in signing.verify(weights_dir, tags, keyed)
        restore()
        assert signing.verify(weights_dir, tags, keyed) == ""


def test_another_key_does_not_verify(keyed: Settings, weights_dir: Path, tmp_path: Path) -> None:
    foreign, _ = write_keys(tmp_path, "foreign")
    tags = signing.sign(weights_dir, "shapes", keyed.model_copy(update={"signing_key": foreign}))
    assert "is not valid for the key" in signing.verify(weights_dir, tags, keyed)


def test_missing_lost_and_changed_signatures_have_separate_messages(keyed: Settings, weights_dir: Path) -> None:
    assert "it is not signed" in signing.verify(weights_dir, {}, keyed)
    tags = signing.sign(weights_dir, "shapes", keyed)
    path = Path(urlsplit(tags[signing.URI_TAG]).path)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")
    assert "was changed" in signing.verify(weights_dir, tags, keyed)
    path.unlink()
    assert "is not in the store" in signing.verify(weights_dir, tags, keyed)


def test_an_encrypted_key_needs_its_password_and_neither_is_logged(
    settings: Settings, weights_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    private, public = write_keys(tmp_path, "locked", password="open sesame")
    locked = settings.model_copy(update={"signing_key": private, "verify_key": public})
    with pytest.raises(ValueError, match="PLUMBLINE_SIGNING_KEY_PASSWORD"):
        signing.sign(weights_dir, "shapes", locked)
    opened = locked.model_copy(update={"signing_key_password": SecretStr("open sesame")})
    with caplog.at_level(logging.DEBUG):
        tags = signing.sign(weights_dir, "shapes", opened)
    assert signing.verify(weights_dir, tags, opened) == ""
    assert "sesame" not in caplog.text + repr(opened) + str(tags)
    assert "PRIVATE" not in caplog.text


def test_keys_that_cannot_be_used_are_named(keyed: Settings, weights_dir: Path, tmp_path: Path) -> None:
    gone = keyed.model_copy(update={"signing_key": tmp_path / "gone.pem"})
    with pytest.raises(ValueError, match=r"PLUMBLINE_SIGNING_KEY .*gone\.pem cannot be read"):
        signing.sign(weights_dir, "shapes", gone)
    other = tmp_path / "rsa.pem"
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    other.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    other.chmod(0o600)
    with pytest.raises(ValueError, match="not an elliptic-curve key"):
        signing.check_keys(keyed.model_copy(update={"signing_key": other}))


def test_the_doctor_hears_what_the_keys_do_and_who_else_could_read_them(keyed: Settings) -> None:
    assert signing.check_keys(keyed) == "new versions are signed; a champion needs a signature"
    assert keyed.signing_key is not None
    keyed.signing_key.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        signing.check_keys(keyed)


def test_mismatched_and_encrypted_keys_are_reported(keyed: Settings, tmp_path: Path) -> None:
    _, foreign = write_keys(tmp_path, "foreign")
    with pytest.raises(ValueError, match="is not the public half"):
        signing.check_keys(keyed.model_copy(update={"verify_key": foreign}))
    locked, _ = write_keys(tmp_path, "locked", password="open sesame")
    with pytest.raises(ValueError, match=r"locked\.pem cannot be opened"):
        signing.check_keys(keyed.model_copy(update={"signing_key": locked}))
