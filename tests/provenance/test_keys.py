"""The signing key: made once and for nobody else to read, the user's own of any kind, and what is wrong with one."""

import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from e2ed2.provenance.keys import known_signers, signing_key
from e2ed2.provenance.label import full_label
from e2ed2.provenance.verify import verify
from e2ed2.system.errors import UserError
from tests.provenance.conftest import MADE, picture

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def named(role):
    texts = {NameOID.COMMON_NAME: role, NameOID.ORGANIZATION_NAME: "x"}
    return x509.Name([x509.NameAttribute(kind, text) for kind, text in texts.items()])


def write_pair(
    folder, monkeypatch, key, begin=NOW - DAY, end=NOW + DAY, of=None, password=None, usage=True, root=None
):
    """A key and a certificate of it by a root, one of its own for None, as files that the environment names."""
    root = root or ec.generate_private_key(ec.SECP256R1())

    def certificate(role, own, is_root):
        builder = x509.CertificateBuilder().subject_name(named(role)).issuer_name(named("root"))
        builder = builder.public_key(own.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)
        builder = builder.add_extension(x509.BasicConstraints(is_root, None), True)
        builder = builder.add_extension(
            x509.KeyUsage(not is_root, False, False, False, False, is_root, is_root, False, False), True
        )
        if usage and not is_root:
            authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
            builder = builder.add_extension(authority, False)
        return builder.sign(root, SHA256()).public_bytes(Encoding.PEM)

    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    (folder / "chain.pem").write_bytes(certificate("leaf", of or key, False) + certificate("root", root, True))
    monkeypatch.setenv("E2ED2_SIGNING_KEY", str(folder / "key.pem"))
    monkeypatch.setenv("E2ED2_SIGNING_CERTIFICATE", str(folder / "chain.pem"))


def test_a_key_is_made_once_and_for_nobody_else_to_read(user):
    user.rmdir()
    assert known_signers().own is None and not user.exists(), "looking makes none"
    first, again = signing_key(), signing_key()
    assert first == again and first.algorithm == "es256"
    (file,) = user.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (user, file)] == [0o700, 0o600]
    leaf, root = x509.load_pem_x509_certificates(first.certificates)
    root.public_key().verify(root.signature, root.tbs_certificate_bytes, ec.ECDSA(SHA256()))
    root.public_key().verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(SHA256()))
    names = leaf.subject.rfc4514_string() + leaf.issuer.rfc4514_string()
    assert "e2ed2" in names and os.uname().nodename not in names


def test_processes_that_begin_together_make_one(user):
    code = "from e2ed2.provenance.keys import signing_key; print(hash(signing_key().key))"
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    begun = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) for _ in range(3)]
    assert len({process.communicate()[0] for process in begun}) == 1
    assert [path.name for path in user.iterdir()] == ["signing.pem"]


KEYS = {
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ps256": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_key_of_ones_own_signs(algorithm, tmp_path, user, monkeypatch):
    write_pair(tmp_path, monkeypatch, KEYS[algorithm]())
    assert signing_key().algorithm == algorithm
    (tmp_path / "x.png").write_bytes(full_label().png(picture(), MADE))
    manifest = verify(tmp_path / "x.png").evidence["c2pa"]
    assert (manifest["state"], manifest["key"], manifest["signed_by"]) == ("valid", "own", "leaf")
    assert not list(user.iterdir()), "none is made beside it"


def test_what_is_wrong_with_a_key_is_one_line(tmp_path, monkeypatch):
    key = KEYS["es256"]()
    write_pair(tmp_path, monkeypatch, key, NOW - 3 * DAY, NOW - DAY)
    with pytest.raises(UserError, match=r"chain.pem: valid from \d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d, not now"):
        full_label()
    write_pair(tmp_path, monkeypatch, key, of=KEYS["es256"]())
    with pytest.raises(UserError, match="its first certificate is not of the key"):
        full_label()
    write_pair(tmp_path, monkeypatch, key, password=b"secret")
    with pytest.raises(UserError, match="key.pem: is encrypted"):
        full_label()
    write_pair(tmp_path, monkeypatch, rsa.generate_private_key(65537, 1024))
    with pytest.raises(UserError, match="C2PA signs with"):
        full_label()
    write_pair(tmp_path, monkeypatch, key, usage=False)
    with pytest.raises(UserError, match="C2PA refuses it"):
        full_label()
    write_pair(tmp_path, monkeypatch, key)
    (tmp_path / "chain.pem").write_text("no certificate")
    with pytest.raises(UserError, match="chain.pem: none in PEM"):
        full_label()
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(UserError, match="key.pem: no private key in PEM"):
        full_label()
    (tmp_path / "key.pem").unlink()
    with pytest.raises(UserError, match="key.pem: No such file"):
        full_label()
    monkeypatch.delenv("E2ED2_SIGNING_KEY")
    with pytest.raises(UserError, match="E2ED2_SIGNING_CERTIFICATE is set, but E2ED2_SIGNING_KEY is not"):
        full_label()


def test_key_and_certificate_may_lie_in_one_file_which_is_never_made(tmp_path, monkeypatch):
    write_pair(tmp_path, monkeypatch, KEYS["es256"]())
    both = tmp_path / "both.pem"
    for name in ("E2ED2_SIGNING_KEY", "E2ED2_SIGNING_CERTIFICATE"):
        monkeypatch.setenv(name, str(both))
    with pytest.raises(UserError, match="both.pem: No such file"):
        full_label()
    both.write_bytes((tmp_path / "key.pem").read_bytes() + (tmp_path / "chain.pem").read_bytes())
    (tmp_path / "x.png").write_bytes(full_label().png(picture(), MADE))
    assert verify(tmp_path / "x.png").evidence["c2pa"]["key"] == "own"


def test_a_damaged_key_that_was_made_says_how_to_get_another(user):
    signing_key()
    (user / "signing.pem").write_text("x")
    told = "signing.pem: no private key in PEM .*; remove it, and the next image is signed with a new key"
    with pytest.raises(UserError, match=told):
        full_label()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("E2ED2_CONFIG")
    monkeypatch.setattr("pathlib.Path.home", lambda: Path("~nobody-here").expanduser())
    with pytest.raises(UserError, match="this user has no home folder; set E2ED2_CONFIG to a folder"):
        full_label()
    (tmp_path / "file").touch()
    monkeypatch.setenv("E2ED2_CONFIG", str(tmp_path / "file" / "x"))
    with pytest.raises(UserError, match="configuration folder .*: Not a directory; set E2ED2_CONFIG to another"):
        full_label()


def test_another_under_the_same_root_is_known_only_where_the_root_is_named(tmp_path, user, monkeypatch):
    root = ec.generate_private_key(ec.SECP256R1())
    for name in ("theirs", "own"):
        (tmp_path / name).mkdir()
        write_pair(tmp_path / name, monkeypatch, KEYS["es256"](), root=root)
        (tmp_path / f"{name}.png").write_bytes(full_label().png(picture(), MADE))

    def keys():
        return [verify(tmp_path / f"{name}.png").evidence["c2pa"]["key"] for name in ("own", "theirs")]

    assert keys() == ["own", "unknown"]
    chain = (tmp_path / "own" / "chain.pem").read_text()
    (tmp_path / "root.pem").write_text(chain[chain.rindex("-----BEGIN") :])
    monkeypatch.setenv("E2ED2_TRUSTED_CERTIFICATES", str(tmp_path / "root.pem"))
    assert keys() == ["own", "known"]
