"""Signed C2PA manifests (c2pa.org, specification 2.2) in image files, by `c2pa-python`: written to ours, read from any.

A manifest is bound to the file's bytes: whoever changes a pixel breaks it. It is easily removed, and whoever likes may
sign with a key of his own; so what it says is worth what its key is. Nothing is asked of any server.
"""

import io
from typing import Any

import c2pa

from e2ed2 import __version__
from e2ed2.provenance.keys import Known, SigningKey
from e2ed2.provenance.metadata import GENERATED, GENERATED_TYPES, SOURCE_TYPES
from e2ed2.system.errors import UserError, one_line, said
from e2ed2.system.readers.json_file import parse_json

MAKER = {"name": "e2ed2", "version": __version__}
SETTINGS: dict[str, Any] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True},
    "builder": {"thumbnail": {"enabled": False}},
}
# Of IPTC's source types those of a camera, a scan or a hand.
REAL_TYPES = {"digitalCapture", "computationalCapture", "negativeFilm", "positiveFilm", "print", "digitalCreation"}
MIME_TYPES = {name: f"image/{name.lower()}" for name in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF")}
MIME_TYPES["MPO"] = MIME_TYPES["JPEG"]  # Pillow's name of a JPEG with a second image, as many cameras write
UNTRUSTED = "signingCredential.untrusted"  # c2pa's word for a key that nobody vouches for: no fault of the manifest
MAX_SHOWN = 5  # faults that are named


def signed(png: bytes, fields: dict[str, Any], key: SigningKey) -> bytes:
    """A PNG file with a manifest that says that a trained model made it.

    Args:
        fields: what else it says of the making.
    Raises:
        UserError: C2PA takes no such key or certificate.
    """
    action = {
        "action": "c2pa.created",
        "digitalSourceType": SOURCE_TYPES + GENERATED,
        "softwareAgent": MAKER,
        "parameters": fields,
    }
    manifest = {
        "claim_generator_info": [MAKER],
        "format": MIME_TYPES["PNG"],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }
    out = io.BytesIO()
    info = c2pa.C2paSignerInfo(key.algorithm.encode(), key.certificates, key.key, ta_url=None)
    try:
        context = c2pa.Context.from_dict(SETTINGS)
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(manifest, context=context) as builder:
            builder.sign(signer, MIME_TYPES["PNG"], io.BytesIO(png), out)
    except c2pa.C2paError as error:
        raise UserError(f"the signing key: C2PA refuses it ({said(error)}); give another, or --no-label") from error
    return out.getvalue()


def read_credentials(content: bytes, image_format: str, known: Known) -> dict[str, Any] | None:
    """What the manifests of an image file say; None where it has none, or is of a format that holds none.

    Args:
        image_format: as Pillow names it. known: whose signatures are known.
    Returns:
        `state` (`valid`, `invalid`) and `problems`; of a valid one also `key` (`own`, `known`, `unknown`), `signed_by`,
        `claim` (True: it is generated, or a part of it; False: its signer says that it is a photograph, a scan or a
        drawing by hand), `source_types`, `made_by` and `fields`, what our own manifests say of the making.
    """
    if image_format not in MIME_TYPES:
        return None
    try:
        store = _store(content, MIME_TYPES[image_format], known.roots)
        if _is_own(store, known):  # as far as its number tells: now whether it stands on what the own one does
            store = _store(content, MIME_TYPES[image_format], known.roots + known.own_root)
    except c2pa.C2paError.ManifestNotFound:
        return None
    except (c2pa.C2paError, ValueError) as error:
        return {"state": "invalid", "problems": [said(error)]}
    return _described(store, known)


def _store(content: bytes, mime_type: str, roots: bytes) -> dict[str, Any]:
    """The report of c2pa's reader, in which who signed by one of the roots is trusted."""
    trust = {"trust": {"user_anchors": roots.decode()}} if roots else {}
    context = c2pa.Context.from_dict(SETTINGS | trust)
    with c2pa.Reader(mime_type, io.BytesIO(content), context=context) as reader:
        return dict(parse_json(reader.json(), finite=True))


def _is_own(store: dict[str, Any], known: Known) -> bool:
    """Whether the certificate has the number of the own one."""
    return (_active(store).get("signature_info") or {}).get("cert_serial_number") == str(known.own)


def _active(store: dict[str, Any]) -> dict[str, Any]:
    """The manifest that counts."""
    return (store.get("manifests") or {}).get(store.get("active_manifest")) or {}


def _described(store: dict[str, Any], known: Known) -> dict[str, Any]:
    """The report of c2pa's reader in our words."""
    results = store.get("validation_status") or []
    problems = [one_line(r.get("explanation") or r.get("code")) for r in results if r.get("code") != UNTRUSTED]
    state, manifests = store.get("validation_state"), store.get("manifests") or {}
    if state not in ("Valid", "Trusted"):
        return {"state": "invalid", "problems": problems[:MAX_SHOWN] or ["not valid"]}
    active = _active(store)
    signature = active.get("signature_info") or {}
    own_types, types = _types([active]), _types(list(manifests.values()))  # of what it was made from too
    return {
        "state": "valid",
        "problems": problems[:MAX_SHOWN],
        "key": "unknown" if state == "Valid" else "own" if _is_own(store, known) else "known",
        "signed_by": signature.get("common_name") or signature.get("issuer"),
        "claim": True if GENERATED_TYPES & {*types} else False if REAL_TYPES & {*own_types} else None,
        "source_types": types,
        "made_by": " ".join(str(info.get("name", "")) for info in active.get("claim_generator_info") or []),
        "fields": next((a["parameters"] for a in _actions(active) if isinstance(a.get("parameters"), dict)), {}),
    }


def _types(manifests: list[dict[str, Any]]) -> list[str]:
    """What kinds of source the actions of manifests tell of."""
    actions = [action for manifest in manifests for action in _actions(manifest)]
    return [str(action["digitalSourceType"]).rpartition("/")[2] for action in actions if "digitalSourceType" in action]


def _actions(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The actions of a manifest's assertions."""
    found = []
    for assertion in manifest.get("assertions") or []:
        if str(assertion.get("label", "")).startswith("c2pa.actions") and isinstance(assertion.get("data"), dict):
            found += [action for action in assertion["data"].get("actions") or [] if isinstance(action, dict)]
    return found
