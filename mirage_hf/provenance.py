"""Content credentials (C2PA): what a file says of its own origin, and whether that was tampered with.

A field of its own beside a score, which never alters `p_fake`: most images carry no credentials, anyone can strip
them, and anyone can sign a claim. Needs the extra `c2pa`. Nothing is fetched from the network.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .reading import UnreadableImage, one_line, open_value

# https://cv.iptc.org/newscodes/digitalsourcetype/: made by a model as a whole.
GENERATED = "trainedAlgorithmicMedia"
LONGEST = 200  # characters of a text that a stranger wrote
# Manifests elsewhere and revocation lists would be fetched otherwise, from whatever address the file names.
OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}, "core": {"allowed_network_hosts": []}}
STATES = {"Trusted": "trusted", "Valid": "untrusted", "Invalid": "invalid"}


def read_c2pa(source: Any, trust_anchors: str | Path | None = None) -> dict[str, Any] | None:
    """
    Read an image's content credentials. It never raises on what the image holds.

    Args:
        source (`str`, `Path`, `bytes` or `dict`):
            A path, `zip://<member>::<archive>`, an encoded image, or a dict with `bytes` or `path`.
        trust_anchors (`str` or `Path`, *optional*):
            PEM file of the certificates to trust, such as the C2PA's trust list. Without it no signer is trusted.

    Returns:
        `dict` or `None` where there are no credentials, with

        - `state`: `"trusted"`; `"untrusted"`, intact but by a signer that is on no list; `"invalid"`, the image or the
          credentials were changed afterwards; `"remote"`, they are on the web and were not fetched; `"unreadable"`;
          `"unavailable"`, the package is missing;
        - `note`: the reason, for all but the first two; else `None`;
        - `claim_generator`: program that wrote them, `signer`: name in its certificate;
        - `ai_generated`: whether they say that the image, or the one that it was edited from, was made by a model;
        - `digital_source_types`: what they say about how it was made, in IPTC's terms.

    Raises:
        OSError: `trust_anchors` can't be read.
    """
    try:
        import c2pa
    except ImportError:
        return _answer("unavailable", "content credentials need c2pa-python: `pip install mirage_hf[c2pa]`")
    settings: dict[str, Any] = OFFLINE
    if trust_anchors is not None:
        settings = settings | {"trust": {"user_anchors": Path(trust_anchors).read_text(encoding="utf-8")}}
    try:
        context = c2pa.Context(c2pa.Settings.from_dict(settings))
        with open_value(source) as stream:
            reader = c2pa.Reader.try_create(None, stream, None, context)
            if reader is None:
                return None
            with reader:
                return _report(json.loads(reader.json()), reader.get_validation_state())
    except UnreadableImage as error:
        return _answer("unreadable", str(error))
    except c2pa.C2paError.NotSupported:  # a kind of file that can't hold any
        return None
    except Exception as error:  # whatever the library makes of hostile bytes
        reason = one_line(error)
        return _answer("remote" if reason.startswith("Remote:") else "unreadable", reason)


def _report(store: dict[str, Any], state: str | None) -> dict[str, Any]:
    manifests, active = store["manifests"], store["active_manifest"]
    types = [kind for manifest in _with_parents(manifests, active) for kind in _source_types(manifest)]
    names = [
        f"{info.get('name', '')} {info.get('version', '')}".strip()
        for info in manifests[active].get("claim_generator_info") or []
    ]
    failures = [failure.get("explanation") or failure["code"] for failure in store.get("validation_status") or []]
    verdict = STATES.get(str(state), "unreadable")
    return _answer(
        verdict,
        "; ".join(failures) if verdict in ("invalid", "unreadable") else None,
        claim_generator=", ".join(names) or manifests[active].get("claim_generator"),
        signer=(manifests[active].get("signature_info") or {}).get("issuer"),
        ai_generated=GENERATED in types,
        digital_source_types=sorted({_printable(kind) for kind in types}),
    )


def _with_parents(manifests: dict[str, Any], label: str) -> Iterator[dict[str, Any]]:
    """A manifest, then those of what the image was edited from; parts that were put in don't count."""
    waiting, seen = [label], set()
    while waiting:
        label = waiting.pop()
        if label in seen or label not in manifests:
            continue
        seen.add(label)
        yield manifests[label]
        ingredients = manifests[label].get("ingredients") or []
        waiting += [str(one.get("active_manifest")) for one in ingredients if one.get("relationship") == "parentOf"]


def _source_types(manifest: dict[str, Any]) -> Iterator[str]:
    """Last parts of the IPTC addresses in a manifest's actions."""
    for assertion in manifest.get("assertions") or []:
        if str(assertion.get("label")).startswith("c2pa.actions"):
            for action in assertion["data"].get("actions") or []:
                if action.get("digitalSourceType"):
                    yield str(action["digitalSourceType"]).rstrip("/").rpartition("/")[2]


def _answer(
    state: str,
    note: str | None = None,
    claim_generator: str | None = None,
    signer: str | None = None,
    ai_generated: bool | None = None,
    digital_source_types: list[str] | None = None,
) -> dict[str, Any]:
    return {
        "state": state,
        "note": note and _printable(note),
        "claim_generator": claim_generator and _printable(claim_generator),
        "signer": signer and _printable(signer),
        "ai_generated": ai_generated,
        "digital_source_types": digital_source_types,
    }


def _printable(text: str) -> str:
    """Without control characters, which could steer a terminal, and of bounded length."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:LONGEST])


__all__ = ["read_c2pa"]
