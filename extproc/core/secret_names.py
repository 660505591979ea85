"""Whether the name of a header or a query parameter is that of a credential.

    is_secret("x-acme-api-key")     True: it has the stem `key`
    is_secret("max_tokens")         False: it counts tokens
    is_secret("x-api-key-id")       False: it says something about a key

A name is cut into words (`clientSecret`, `client_secret` and `client-secret` are the same), and is secret when one of
the stems is in it: an unknown vendor's key is caught by being called one. Three kinds of exceptions are harmless, and
worth reading in a record: words that hold a stem by accident (`author`, `monkey`), names that end in what is said
*about* a credential (`-type`, `-expires`), and things that are called a key or a token and open no door (`cache-key`,
`page_token`, counts of a model's tokens). Where it is not clear, a name is secret.
"""

from __future__ import annotations

import re
from typing import Final

_WORD: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_NO_WORD: Final = re.compile("[^a-z0-9]+")

_STEMS: Final = re.compile(
    "key|token|secret|auth|signature|passw|passphrase|passcode|credential|cookie|jwt|bearer|hmac|csrf|xsrf|assertion"
    "|saml|(?<![a-z])creds?(?![a-z])"
)

_WORTH_READING: Final = re.compile(
    rf"{_STEMS.pattern}|cred|sig|pwd|otp|psk|pass|pw|sid|sas|sess|dpop|verifier|honeycomb|bypass"
)

_SECRET_AT_THE_END: Final = re.compile(r"(?:sig|(?<![a-z])(?:sign|pwd|otp|totp|psk))$")
"""Short for a signature, a password, a secret: only where the name ends, since words such as `sign-in` begin so."""

_SECRET: Final = frozenset(
    {
        "code-verifier",
        "dpop",
        "jsessionid",
        "pass",
        "phpsessid",
        "pw",
        "sas",
        "sessid",
        "sid",
        "x-honeycomb-team",
        "x-pass",
        "x-vercel-protection-bypass",
    }
)
"""Names of credentials that have no stem."""

_SECRET_ID: Final = re.compile(r"(?:access-?key|secret)-?id$")
"""An id that is one half of a pair: a cloud's access key, Vault's secret id."""

_HARMLESS: Final = frozenset(
    {
        "accept-signature",
        "authentication-info",
        "authentication-results",
        "credentials-mode",
        "keys",
        "proxy-authenticate",
        "proxy-authentication-info",
        "signature-agent",
        "signature-input",
        "with-credentials",
        "www-authenticate",
        "xkey",
    }
)

_HARMLESS_PART: Final = re.compile(r"^access-control-|rate-?limit")

_BY_ACCIDENT: Final = re.compile(
    "monkey|donkey|portkey|turkey|hockey|jockey|whiskey|turnkey|hotkey|latchkey"
    "|key(?:board|word|note|frame|point|press|code|space|set|stroke|stone|down|up|less)"
    "|(?:public|publishable)-?key"
    "|author(?:itative|ity|ing|ship|ed|s)?(?![a-z])|authentic(?:ated|ity)?(?![a-z])|auth-?user(?![a-z])"
    "|secretar(?:y|ies|iat)|(?:de)?tokeni[sz][a-z]*|cookie-?(?:consent|banner)"
)

_COUNTED: Final = re.compile(
    r"(?:(?<![a-z])(access|auth|api|refresh|bearer|session|id|security|user|login|device|push|personal)-?)?tokens"
)
"""Tokens in the plural are a model's, unless they are said to be of another kind."""

_ABOUT: Final = (
    "(?:ids?|names?|types?|type-hint|kind|version|methods?|modes?|scheme|algo?|algorithms?|format|encoding|length|len"
    "|size|counts?|total|num|number|limits?|remaining|reset|usage|used|rate|budget|spend|cost|quota|policy|ttl|age"
    "|expires|expiry|expiration|exp|lifetime|time|timestamp|date|seconds|ms|status|state|valid|validity|enabled"
    "|disabled|required|optional|allowed|provider|source|origin|issuer|realm|scopes?|ur[il]s?|endpoint|path|redirect"
    "|callback|host|domain|server|users?|username|emails?|groups?|roles?|prefix|suffix|index|position|offsets?|level"
    "|results?|errors?|messages?|failed|failure|reason|supported|present|exists|get|create|description|label|title|language"
    "|nonce|consent|healing|bucket|probs?|logprobs|embeddings?|classification)"
)

_SAID_ABOUT: Final = re.compile(
    rf"(?:(?<![a-z])|(?:key|token|secret|auth|signature|password|credentials?|cookie)s?){_ABOUT}$"
    "|(?:key|certificate)-(?:hash|fingerprint|thumbprint|md5|sha1|sha256|sha-?(?:1|256))$|key-md-?5$"
)

_NO_DOOR: Final = re.compile(
    r"(?<![a-z])(?:"
    "(?:idempotency|idempotence|cache|surrogate|partition|primary|foreign|composite|sort|shard|sharding|routing|route"
    "|hash|range|group|grouping|row|dedup|dedupe|deduplication|correlation|affinity|lookup|object|map|message"
    "|translation|locale|order|index|start|end|first|last|next|prev|previous|host|vary|variant|feature|flag|metric"
    "|column|field|property|json|batch|queue|topic|entity|record|item|doc|document|page|websocket)-?keys?(?:-?[0-9])?"
    "|(?:next|page|next-?page|prev-?page|pagination|continuation|sync|skip|resume|cursor|scroll|eos|bos|pad|unk|sep"
    "|mask|cls|stop|special|start|end|first|last|per|prompt|completion|input|output|max|min|decode|image|audio|video"
    "|thinking|reasoning|draft|generated|cached)-?token"
    ")$"
)


def is_secret(name: str) -> bool:
    """Whether a header or a parameter of this name carries a credential."""
    if not _WORTH_READING.search(name.lower()):  # most names end here
        return False
    words = "-".join(_WORD.findall(name)).lower()
    if not _STEMS.search(words):  # `kEy`, which is cut in the wrong places
        words = _NO_WORD.sub("-", name.lower()).strip("-")
    if words in _SECRET or _SECRET_AT_THE_END.search(words):
        return True
    if words in _HARMLESS or _HARMLESS_PART.search(words):
        return False
    left = _COUNTED.sub(lambda match: match[0] if match[1] else "", _BY_ACCIDENT.sub("", words))
    if not _STEMS.search(left):
        return False
    if _SECRET_ID.search(words):
        return True
    return not (_SAID_ABOUT.search(words) or _NO_DOOR.search(words))
