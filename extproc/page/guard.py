"""Whom the page answers: the checks that come before any path, and the headers that go with every answer.

A page of somebody else's whose name was made to lead here (DNS rebinding) has another Host; one that only sends
requests here has another Origin, or says `cross-site`. There are no cookies: where a token is needed, each request
carries it in a header that no foreign page can set. What does something is answered only where a token is needed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from extproc.config import is_loopback
from extproc.page.tokens import Tokens

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

API: Final = "/api/"
WHO: Final = web.RequestKey("who", str)
"""The name that the token of a request has; empty where no token is needed."""

HEADERS: Final[Mapping[str, str]] = {
    # Nothing but our own files: no inline code, no eval, no frame, and no request to another machine.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_ACTS: Final = ("POST", "DELETE")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@/]+)(?::[0-9]{1,5})?")


class Guard:
    """What is checked. `host` is where the page listens."""

    def __init__(self, host: str, tokens: Tokens | None) -> None:
        self._local = is_loopback(host)
        self._tokens = tokens

    def refusal(self, request: web.Request) -> tuple[int, str] | None:
        """The status and the reason for which a request is not answered; notes who asks of one that is."""
        acts = request.method in _ACTS and request.path.startswith(API)
        if request.method not in ("GET", "HEAD") and not (acts and self._tokens is not None):
            return 405, "only GET is answered" + (": what does something needs --token-file" if acts else "")
        if not self._is_ours(request.headers.get("host", "")):
            return 421, "this page is not served under that name"
        if not _is_from_here(request):
            return 403, "a request of another page's"
        name = "" if self._tokens is None else self._tokens.name_of(request.headers.get("authorization", ""))
        if name is None and request.path.startswith(API):
            return 401, "a token is needed: authorization: Bearer TOKEN"
        request[WHO] = name or ""
        return None

    def _is_ours(self, host: str) -> bool:
        """On loopback only loopback's names are; elsewhere the token decides, which no foreign page has."""
        match = _HOST.fullmatch(host)
        return match is not None and (not self._local or is_loopback(match[1].strip("[]")))


def _is_from_here(request: web.Request) -> bool:
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        return False
    site = request.headers.get("sec-fetch-site", "none")
    # A link from elsewhere may open the page itself, and nothing else.
    return site in ("none", "same-origin") or (
        request.path == "/" and request.headers.get("sec-fetch-mode") == "navigate"
    )


def middleware(guard: Guard) -> Middleware:
    """Refuses what is to be refused; what went wrong is JSON, too."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = guard.refusal(request)
        if refused is not None:
            return web.json_response({"error": refused[1]}, status=refused[0])
        try:
            return await handler(request)
        except web.HTTPException as error:
            return web.json_response({"error": error.reason}, status=error.status)

    return guarded


async def with_headers(_: web.Request, response: web.StreamResponse) -> None:
    """What goes with every answer, whatever it is."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if response.status == 401:
        response.headers["www-authenticate"] = "Bearer"
