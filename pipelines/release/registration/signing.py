"""OpenSSF model signatures: sign the served files at registration, and verify them before a promotion.

A signature is a Sigstore bundle over the sha256 of every file of the folder that MLflow serves, made with an
elliptic-curve key of this installation, without any network service. It is in the store under its sha256; the version's
tags name it. The private key is needed where weights are registered, the public one where the champion is moved.
Neither is ever logged.
"""

import hashlib
import logging
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pipelines.settings import Settings
from pipelines.store.storage import open_store

log = logging.getLogger(__name__)

URI_TAG = "signature.uri"
SHA256_TAG = "signature.sha256"


def sign(weights_dir: Path, model: str, settings: Settings) -> dict[str, str]:
    """Sign a folder, save the signature and return the tags that name it; empty without a signing key.

    ValueError when the key cannot be read.
    """
    if settings.signing_key is None:
        return {}
    from model_signing import signing

    password = settings.signing_key_password.get_secret_value()
    _check_readable(settings.signing_key, "PLUMBLINE_SIGNING_KEY")
    try:
        # The library's type hint is str, but the function that it calls needs bytes.
        config = signing.Config().use_elliptic_key_signer(  # type: ignore[no-untyped-call]
            private_key=settings.signing_key,
            password=password.encode() or None,  # type: ignore[arg-type]
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"PLUMBLINE_SIGNING_KEY {settings.signing_key} cannot sign: {error}. Give a private key in PEM on curve"
            " P-256, P-384 or P-521, and PLUMBLINE_SIGNING_KEY_PASSWORD if it is encrypted."
        ) from error
    with tempfile.TemporaryDirectory(prefix="plumbline-sign-") as scratch:
        path = Path(scratch) / "signature.json"
        config.sign(weights_dir, path)
        signature = path.read_bytes()
    sha256 = hashlib.sha256(signature).hexdigest()
    store = open_store(settings.store_uri, settings)
    uri = store.uri("signatures", model, f"{sha256}.json")
    store.create_bytes(uri, signature)
    log.info("Signed the weights of %s: %s", model, uri)
    return {URI_TAG: uri, SHA256_TAG: sha256}


def verify(weights_dir: Path, tags: Mapping[str, str], settings: Settings) -> str:
    """Return the reason why the signature in these tags is not valid for this folder; empty when it is, or without a
    key."""
    if settings.verify_key is None:
        return ""
    if not tags.get(URI_TAG):
        return (
            "it is not signed, but PLUMBLINE_VERIFY_KEY requires a signature. Register the weights again where"
            " PLUMBLINE_SIGNING_KEY is set"
        )
    store = open_store(settings.store_uri, settings)
    if not store.exists(tags[URI_TAG]):
        return f"its signature {tags[URI_TAG]} is not in the store"
    signature = store.read_bytes(tags[URI_TAG])
    if hashlib.sha256(signature).hexdigest() != tags.get(SHA256_TAG):
        return f"its signature {tags[URI_TAG]} was changed"
    _check_readable(settings.verify_key, "PLUMBLINE_VERIFY_KEY")
    return _problem_with(signature, weights_dir, settings.verify_key)


def _problem_with(signature: bytes, weights_dir: Path, key: Path) -> str:
    from model_signing import verifying

    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"PLUMBLINE_VERIFY_KEY {key} cannot verify: {error}. Give a public key in PEM on curve P-256,"
            " P-384 or P-521."
        ) from error
    with tempfile.TemporaryDirectory(prefix="plumbline-verify-") as scratch:
        path = Path(scratch) / "signature.json"
        path.write_bytes(signature)
        try:
            config.verify(weights_dir, path)
        except Exception as error:
            reason = str(error).strip() or type(error).__name__
            return f"its signature is not valid for the key in {key}: {reason.splitlines()[0]}"
    return ""


def check_keys(settings: Settings) -> str:
    """Describe what this installation signs and verifies.

    ValueError when a key cannot be used, other users can read the private key, or the two are not a pair.
    """
    parts, ours = [], None
    if settings.signing_key is not None:
        _check_readable(settings.signing_key, "PLUMBLINE_SIGNING_KEY")
        ours = _public_half(settings)
        if settings.signing_key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError(f"Other users can read the private key {settings.signing_key}. Run `chmod 600` on it.")
        parts.append("new versions are signed")
    if settings.verify_key is not None:
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        _check_readable(settings.verify_key, "PLUMBLINE_VERIFY_KEY")
        if ours is not None and load_pem_public_key(settings.verify_key.read_bytes()) != ours:
            raise ValueError(
                f"PLUMBLINE_VERIFY_KEY {settings.verify_key} is not the public half of PLUMBLINE_SIGNING_KEY"
                f" {settings.signing_key}: no version that is signed here could become champion. Set the matching key."
            )
        parts.append("a champion needs a signature")
    return "; ".join(parts) or "no key is set: digests are verified, versions are not signed"


def _public_half(settings: Settings) -> object:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    assert settings.signing_key is not None
    password = settings.signing_key_password.get_secret_value().encode() or None
    try:
        key = load_pem_private_key(settings.signing_key.read_bytes(), password)
    except (ValueError, TypeError) as error:
        raise ValueError(f"PLUMBLINE_SIGNING_KEY {settings.signing_key} cannot be opened: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"PLUMBLINE_SIGNING_KEY {settings.signing_key} is not an elliptic-curve key.")
    return key.public_key()


def _check_readable(path: Path, name: str) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} {path} cannot be read ({error.strerror}). Correct the path or its rights.") from error
