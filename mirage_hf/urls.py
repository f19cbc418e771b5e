"""Images from the web, for those who ask for it: capped in size and time, http and https only."""

import time
import urllib.error
import urllib.request
from http.client import HTTPException
from urllib.parse import urlsplit

from .image_io import ImageStatus, UnreadableImage
from .version import __version__

MAX_BYTES = 64 << 20
TIMEOUT = 30.0
SCHEMES = ("http", "https")


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """urllib would follow a redirection to ftp."""

    max_redirections = 5

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urlsplit(newurl).scheme not in SCHEMES:
            raise UnreadableImage(f"redirected to {urlsplit(newurl).scheme}", ImageStatus.UNSUPPORTED)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def is_url(text: str) -> bool:
    """Whether a text is an http or https address."""
    return urlsplit(text).scheme.lower() in SCHEMES and "://" in text


def fetch(url: str, max_bytes: int = MAX_BYTES, timeout: float = TIMEOUT) -> bytes:
    """
    The encoded image at an address.

    Args:
        url (`str`):
            http or https.
        max_bytes (`int`, *optional*, defaults to 64 MiB):
            Given up beyond.
        timeout (`float`, *optional*, defaults to 30):
            Seconds, for the whole.

    Raises:
        UnreadableImage: with the status `not_found` where there is no answer or none of code 200, `too_large` past a
            cap, `unsupported` for other protocols.
    """
    if not is_url(url):
        raise UnreadableImage("not an http or https address", ImageStatus.UNSUPPORTED)
    deadline = time.monotonic() + timeout
    request = urllib.request.Request(url, headers={"User-Agent": f"mirage_hf/{__version__}"})
    opener = urllib.request.build_opener(_WebOnly)
    try:
        with opener.open(request, timeout=timeout) as answer:
            data = bytearray()
            while part := answer.read1(1 << 16):
                data += part
                if len(data) > max_bytes:
                    raise UnreadableImage(f"more than {max_bytes} bytes", ImageStatus.TOO_LARGE)
                if time.monotonic() > deadline:
                    raise UnreadableImage(f"not there after {timeout:g} s", ImageStatus.NOT_FOUND)
    except urllib.error.HTTPError as error:
        reason = " ".join(f"the server answers {error.code} {error.reason}".split())
        raise UnreadableImage(reason, ImageStatus.NOT_FOUND) from error
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, UnreadableImage):
            raise
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise UnreadableImage(f"not fetched: {reason}", ImageStatus.NOT_FOUND) from error
    return bytes(data)


__all__ = ["MAX_BYTES", "TIMEOUT", "fetch", "is_url"]
