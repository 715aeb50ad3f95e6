"""The key that manifests are signed with: the user's own, or one that is made on first use and never leaves its file.

A made one stands on a root of its own, whose key is thrown away: it proves that images come from one place, and not
from which. No name of a person is in it, and no server is asked for the time.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from e2ed2.system.errors import UserError, said
from e2ed2.system.files import atomic_file, locked
from e2ed2.system.paths import config_dir, make_folder
from e2ed2.system.readers.text import read_bytes

KEY, CERTIFICATE, TRUSTED = "E2ED2_SIGNING_KEY", "E2ED2_SIGNING_CERTIFICATE", "E2ED2_TRUSTED_CERTIFICATES"
FILE = "signing.pem"  # key, certificate and root in one file, so that nothing parts them
VALID_FOR, BEFORE_NOW = timedelta(days=3650), timedelta(hours=1)  # clocks differ
ONLY_SIGN = ("digital_signature",)
ONLY_CERTIFY = ("key_cert_sign", "crl_sign")
USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class SigningKey:
    """PEM texts, as C2PA takes them. certificates: the key's own first; algorithm: C2PA's name of it."""

    key: bytes
    certificates: bytes
    algorithm: str


@dataclass(frozen=True)
class Known:
    """Whom this user knows.

    Attributes:
        roots: PEM certificates; who has one by them is known.
        own: the serial number of the own certificate, None for none.
        own_root: in PEM, what the own one stands on. It makes nobody else known: others stand on a public one too.
    """

    roots: bytes
    own: int | None
    own_root: bytes


def signing_key() -> SigningKey:
    """The key that the environment names, else the one in the configuration folder, made where there is none.

    Raises:
        UserError: half of it is named, a file is not what it should be, or the certificate is not valid now.
    """
    key, certificate = _files()
    if not os.environ.get(KEY):
        _make_once(key)
    private, chain = _private_key(key), _certificates(certificate)
    first = chain[0]
    if first.public_key() != private.public_key():
        raise UserError(f"{CERTIFICATE} {certificate}: its first certificate is not of the key {key}; {_remedy(key)}")
    begin, end = first.not_valid_before_utc, first.not_valid_after_utc
    if not begin <= datetime.now(UTC) <= end:
        valid = f"valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d}, not now"
        raise UserError(f"certificate {certificate}: {valid}; {_remedy(certificate)}")
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return SigningKey(pem, _pem(chain), _algorithm(private, key))


def known_signers() -> Known:
    """The own certificate, and those of the file that `E2ED2_TRUSTED_CERTIFICATES` names.

    Raises:
        UserError: one of these files is not what it should be.
    """
    _, certificate = _files()
    own = _certificates(certificate) if certificate.exists() else []
    named = os.environ.get(TRUSTED)
    trusted = _certificates(Path(named)) if named else []
    return Known(_pem(trusted), own[0].serial_number if own else None, _pem(own[-1:]))


def _files() -> tuple[Path, Path]:
    """Where key and certificate lie: one file, unless the environment names two."""
    key, certificate = os.environ.get(KEY), os.environ.get(CERTIFICATE)
    if bool(key) != bool(certificate):
        named, missing = (KEY, CERTIFICATE) if key else (CERTIFICATE, KEY)
        raise UserError(f"{named} is set, but {missing} is not: set both, or none")
    if key and certificate:
        return Path(key), Path(certificate)
    return config_dir() / FILE, config_dir() / FILE


def _remedy(path: Path) -> str:
    if path.name == FILE:
        return "remove it, and the next image is signed with a new key"
    return f"{KEY}, {CERTIFICATE} and {TRUSTED} name PEM files"


def _private_key(path: Path) -> Any:
    try:
        return load_pem_private_key(read_bytes(path, "key", _remedy(path)), None)
    except TypeError as error:
        raise UserError(f"key {path}: is encrypted; give one without a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"key {path}: no private key in PEM ({said(error)}); {_remedy(path)}") from error


def _certificates(path: Path) -> list[x509.Certificate]:
    content = read_bytes(path, "certificate", _remedy(path))
    try:
        found = x509.load_pem_x509_certificates(content)
        for one in found:  # what is damaged in one may show only when it is asked
            one.public_key(), one.serial_number, one.not_valid_before_utc, one.not_valid_after_utc
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise UserError(f"certificate {path}: none in PEM ({said(error)}); {_remedy(path)}") from error
    return found


def _pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _algorithm(key: Any, path: Path) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    raise UserError(f"key {path}: C2PA signs with EC (P-256, P-384, P-521), Ed25519 or RSA keys of 2,048 bits or more")


def _make_once(path: Path) -> None:
    """Key, certificate and root to a file that only the user reads; one that is there stays."""
    make_folder(path.parent, "configuration", "E2ED2_CONFIG", 0o700)
    with locked(path.parent):  # the first of several processes makes it
        if path.exists():
            return
        root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root = _certificate("root", root_key, root_key, ONLY_CERTIFY)
        own = _certificate("key", key, root_key, ONLY_SIGN)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with atomic_file(path) as temporary:
            temporary.touch(0o600)
            temporary.write_bytes(pem + _pem([own, root]))


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey, usages: tuple[str, ...]
) -> x509.Certificate:
    """A certificate by C2PA's profile (specification 2.2, 14.5), of a root where it issues itself."""
    is_root, now = key is issuer, datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name("root"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BEFORE_NOW)
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{usage: usage in usages for usage in USAGES}), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if not is_root:
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())
        builder = builder.add_extension(authority, critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(issuer, SHA256())


def _name(role: str) -> x509.Name:
    texts = {NameOID.ORGANIZATION_NAME: "e2ed2", NameOID.COMMON_NAME: f"e2ed2 {role} made on first use"}
    return x509.Name([x509.NameAttribute(kind, text) for kind, text in texts.items()])
