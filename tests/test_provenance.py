"""Content credentials: signed here with a throwaway certificate, read back offline, and never the cause of a crash."""

import http.server
import io
import json
import sys
import threading
import warnings
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from mirage_hf import provenance
from mirage_hf.provenance import read_c2pa

c2pa = pytest.importorskip("c2pa")
x509 = pytest.importorskip("cryptography.x509")

from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: E402

IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def certificate(name, key, issuer=None, signed_with=None):
    """An end certificate if it has an issuer, else one of an authority."""
    now, leaf = datetime.now(UTC), issuer is not None
    subject, issued_by = (
        x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, n), x509.NameAttribute(NameOID.COMMON_NAME, n)])
        for n in (name, issuer or name)
    )
    usage = dict.fromkeys(
        "content_commitment key_encipherment data_encipherment key_agreement encipher_only decipher_only".split(),
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issued_by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(not leaf, None), True)
        .add_extension(x509.KeyUsage(True, key_cert_sign=not leaf, crl_sign=not leaf, **usage), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    if leaf:
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_with.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), True)
        builder = builder.add_extension(authority, False)
    signed = builder.sign(signed_with or key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def identity():
    """Chain and private key of a signer, and the authority's certificate."""
    authority, signer = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = certificate("Test authority", authority)
    chain = certificate("Test signer", signer, "Test authority", authority) + root
    private = signer.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return chain, private, root


def jpeg() -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def sign(identity, source_type="trainedAlgorithmicMedia", image=None, remote=None, name="throwaway", parent=None):
    actions = [{"action": "c2pa.created", "digitalSourceType": IPTC + source_type}]
    if parent:
        taken_up = {"action": "c2pa.placed", "parameters": {"ingredientIds": ["parent"]}}
        actions = [*actions, taken_up] if parent[1] == "componentOf" else [taken_up | {"action": "c2pa.opened"}]
    manifest = {
        "claim_generator_info": [{"name": name, "version": "1"}],
        "format": "image/jpeg",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }
    builder = c2pa.Builder(json.dumps(manifest))
    if parent:
        described = {"title": "parent", "relationship": parent[1], "instance_id": "parent", "label": "parent"}
        builder.add_ingredient(json.dumps(described), "image/jpeg", io.BytesIO(parent[0]))
    if remote:
        builder.set_no_embed()
        builder.set_remote_url(remote)
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", identity[0], identity[1], None))
    signed = io.BytesIO()
    builder.sign(signer, "image/jpeg", io.BytesIO(image or jpeg()), signed)
    return signed.getvalue()


@pytest.fixture(scope="module")
def signed(identity):
    return sign(identity)


def test_claims_and_state(identity, signed, tmp_path):
    found = read_c2pa(signed)
    assert found == {
        "state": "untrusted",
        "note": None,
        "claim_generator": "throwaway 1",
        "signer": "Test signer",
        "ai_generated": True,
        "digital_source_types": ["trainedAlgorithmicMedia"],
    }
    (tmp_path / "root.pem").write_bytes(identity[2])
    (tmp_path / "a.jpg").write_bytes(signed)
    assert read_c2pa(tmp_path / "a.jpg", tmp_path / "root.pem") == found | {"state": "trusted"}
    other = certificate("Another authority", ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "other.pem").write_bytes(other)
    assert read_c2pa(tmp_path / "a.jpg", tmp_path / "other.pem") == found
    with pytest.raises(OSError):
        read_c2pa(signed, tmp_path / "nothing.pem")


def test_a_camera_s_image_is_not_said_to_be_generated(identity):
    found = read_c2pa(sign(identity, "digitalCapture"))
    assert found["ai_generated"] is False and found["digital_source_types"] == ["digitalCapture"]


@pytest.mark.parametrize(("relationship", "counts"), [("parentOf", True), ("componentOf", False)])
def test_what_it_was_edited_from_counts_and_a_part_of_it_does_not(identity, signed, relationship, counts):
    found = read_c2pa(sign(identity, "digitalCapture", parent=(signed, relationship)))
    assert found["state"] == "untrusted", found
    assert found["ai_generated"] is counts


def test_a_changed_image_is_invalid(signed):
    changed = bytearray(signed)
    changed[-200] ^= 1
    found = read_c2pa(bytes(changed))
    assert found["state"] == "invalid" and "hash" in found["note"].lower()
    assert found["ai_generated"] is True  # what it says stays on record, beside its state


def test_without_credentials_there_is_nothing(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    for source in (jpeg(), tmp_path / "a.png", str(tmp_path / "a.png"), b"", b"text", {"bytes": jpeg()}):
        assert read_c2pa(source) is None


def test_damage_never_raises(signed, tmp_path):
    random = np.random.default_rng(0)
    states = set()
    for size in (1, 100, 300, 5000, len(signed) // 2, len(signed) - 1):
        states.add((read_c2pa(signed[:size]) or {"state": None})["state"])
    for _ in range(40):
        damaged = bytearray(signed)
        for place in random.integers(0, len(signed), 30):
            damaged[place] = random.integers(0, 256)
        found = read_c2pa(bytes(damaged))
        states.add(found and found["state"])
    assert {"invalid", "unreadable"} <= states <= {"invalid", "unreadable", "untrusted", None}
    for source in (tmp_path, tmp_path / "nothing.jpg", None, 3):
        assert read_c2pa(source)["state"] == "unreadable"


def test_manifests_on_the_web_are_not_fetched(identity):
    """Against a server of our own, for the library opens sockets outside Python; by default it does ask it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        image = sign(identity, remote=f"http://127.0.0.1:{server.server_port}/manifest.c2pa")
        found = read_c2pa(image)
        assert asked == []
        assert found["state"] == "remote" and "/manifest.c2pa" in found["note"] and found["ai_generated"] is None
        with pytest.raises(c2pa.C2paError):
            c2pa.Reader("image/jpeg", io.BytesIO(image))
        server.shutdown()
    assert asked == ["/manifest.c2pa"]


def test_a_stranger_s_text_is_harmless_and_short(identity):
    found = read_c2pa(sign(identity, name="\x1b[31mevil\n" + "x" * 1000))
    assert found["claim_generator"].isprintable() and len(found["claim_generator"]) == provenance.LONGEST
    assert found["claim_generator"].startswith("?[31mevil?xxx")


def test_without_the_package_a_note_says_what_to_install(monkeypatch, signed):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    found = read_c2pa(signed)
    assert found["state"] == "unavailable" and "mirage_hf[c2pa]" in found["note"] and found["ai_generated"] is None


def test_nothing_is_said_aloud(signed, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_c2pa(signed)
        read_c2pa(signed[:300])
    assert capfd.readouterr() == ("", "")
