"""Signatures of weights, as the package model-signing checks them where it is installed."""

import base64
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    EllipticCurve,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from connectors.model_signing import InvalidModelKey, ModelSigner, read_model_key

MODEL_SIGNING = shutil.which("model_signing")
DIGEST = hashlib.sha256(b"weights").hexdigest()


def write_key(
    folder: Path, *, curve: EllipticCurve | None = None, password: bytes | None = None, mode: int = 0o600
) -> Path:
    """A private key as `openssl genpkey` writes it, with its public half beside it."""
    private = generate_private_key(curve or SECP256R1())
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    path = folder / "model-key.pem"
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    path.chmod(mode)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "model-key.pub").write_bytes(public)
    return path


@pytest.fixture
def signer(tmp_path: Path) -> ModelSigner:
    return read_model_key(write_key(tmp_path))


def test_a_bundle_names_the_weights_by_their_digest_under_the_key(signer: ModelSigner, tmp_path: Path) -> None:
    bundle = signer.sign("digits", DIGEST)
    signed = bundle["dsseEnvelope"]
    payload = base64.b64decode(signed["payload"])
    statement = json.loads(payload)
    assert statement["predicate"]["resources"] == [
        {"name": "model.safetensors", "algorithm": "sha256", "digest": DIGEST}
    ]
    assert statement["subject"][0]["digest"]["sha256"] == hashlib.sha256(bytes.fromhex(DIGEST)).hexdigest()
    encoded = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
    public, (signature,) = signer.private.public_key(), signed["signatures"]
    public.verify(base64.b64decode(signature["sig"]), encoded, ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(signature["sig"]), encoded + b" ", ECDSA(SHA256()))
    hint = bundle["verificationMaterial"]["publicKey"]["hint"]
    assert hint == hashlib.sha256((tmp_path / "model-key.pub").read_bytes()).hexdigest()
    assert signer.has_signed(bundle)


def test_a_key_that_cannot_sign_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelKey, match="cannot be read"):
        read_model_key(tmp_path / "gone")
    with pytest.raises(InvalidModelKey, match="P-256"):
        read_model_key(write_key(tmp_path, curve=SECP384R1()))
    with pytest.raises(InvalidModelKey, match="unencrypted"):
        read_model_key(write_key(tmp_path, password=b"secret"))
    with pytest.raises(InvalidModelKey, match="chmod 600"):
        read_model_key(write_key(tmp_path, mode=0o640))
    path = write_key(tmp_path)
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(InvalidModelKey, match="P-256"):
        read_model_key(path)
    path.write_text("no key")
    with pytest.raises(InvalidModelKey, match="PEM"):
        read_model_key(path)


@pytest.mark.skipif(MODEL_SIGNING is None, reason="model-signing is not installed")
class TestWithModelSigning:
    """The command `model_signing verify key` of the package itself."""

    def verify(self, folder: Path, public: Path, signature: Path, *more: str) -> subprocess.CompletedProcess[str]:
        assert MODEL_SIGNING is not None
        given = ["--public_key", str(public), "--signature", str(signature), *more]
        command = [MODEL_SIGNING, "verify", "key", str(folder), *given]
        return subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, check=False)

    def test_it_verifies_the_weights_and_refuses_others(self, signer: ModelSigner, tmp_path: Path) -> None:
        folder, signature, public = tmp_path / "model", tmp_path / "model.sig", tmp_path / "model-key.pub"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        signature.write_text(json.dumps(signer.sign("digits", DIGEST)))
        good = self.verify(folder, public, signature)
        assert good.returncode == 0, good.stderr

        (folder / "statement.dsse.json").write_text("{}")  # as in MLflow's folder
        assert self.verify(folder, public, signature).returncode == 1
        assert self.verify(folder, public, signature, "--ignore_unsigned_files").returncode == 0

        (folder / "model.safetensors").write_bytes(b"weighty")
        assert self.verify(folder, public, signature, "--ignore_unsigned_files").returncode == 1
        (folder / "model.safetensors").write_bytes(b"weights")
        other = tmp_path / "other"
        other.mkdir()
        write_key(other)
        assert self.verify(folder, other / "model-key.pub", signature, "--ignore_unsigned_files").returncode == 1
        forged = json.loads(signature.read_text())
        payload = base64.b64decode(forged["dsseEnvelope"]["payload"]).replace(b'"digits"', b'"scores"')
        forged["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        signature.write_text(json.dumps(forged))
        assert self.verify(folder, public, signature, "--ignore_unsigned_files").returncode == 1
