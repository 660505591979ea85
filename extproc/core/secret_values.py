"""Where in a text something stands that is a credential by its form, whatever the name that it has.

    spans("Bearer sk-abcdefgh")     [(7, 18)]: the key, not the word before it
    spans("https://u:p@host/")      [(8, 11)]

The forms are those that vendors gave their keys so that scanners find them, tokens behind the name of an
authentication scheme, JSON Web Tokens, private keys, and what stands before the `@` of a URL's host.
"""

from __future__ import annotations

import re
from typing import Final

from extproc.core.marks import MARK

_KEYS: Final = {
    "A": r"(?:K|S)IA[A-Z0-9]{12,}|(?:RO|ID|GP|NP|NV)A[A-Z0-9]{14,}|BSK[\w+/]{20,}={0,2}|Iza[\w-]{20,}|TATT3[\w=-]{16,}"
    r"|GE-SECRET-KEY-1[A-Z0-9]{16,}",
    "G": r"OCSPX-[\w-]{12,}",
    "N": r"RAK-[\w-]{16,}",
    "P": r"MAK-[\w-]{16,}",
    "S": r"G\.[\w-]{16,}\.[\w-]{16,}",
    "a": r"pi_org_[A-Za-z0-9]{16,}",
    "c": r"sk-[\w-]{16,}",
    "d": r"api[0-9a-f]{32}|o[opr]_v1_[0-9a-f]{32,}|p\.(?:pt|st|ct|sa|scim|audit)\.[\w-]{16,}",
    "e": r"yJ[\w-]{6,}\.[\w-]{2,}(?:\.[\w-]*)*",  # a JSON Web Token
    "f": r"w_[A-Za-z0-9]{16,}|o1_[\w-]{16,}|m2_[\w+/=-]{16,}",
    "g": r"h[opsru]_[A-Za-z0-9]{16,}|ithub_pat_\w{16,}|sk_[A-Za-z0-9]{16,}|lsa_[\w-]{16,}|lc_[\w+/=-]{16,}"
    r"|l(?:pat|oas|dt|rt|cbt|ptt|ft|imt)-[\w.-]{12,}",
    "h": r"f_[A-Za-z0-9]{16,}|v[sbr]\.[\w-]{16,}",
    "l": r"in_api_[A-Za-z0-9]{16,}|sv2_(?:pt|sk)_\w{16,}",
    "n": r"vapi-[\w-]{12,}|pm_[A-Za-z0-9]{16,}|tn_[A-Za-z0-9]{16,}",
    "o": r"ps_eyJ[\w-]{16,}",
    "p": r"plx-[\w-]{12,}|ypi-[\w-]{12,}|k-lf-[\w-]{12,}|k_(?:live|test)_[A-Za-z0-9]{16,}|ul-[0-9a-f]{16,}"
    r"|at[A-Za-z0-9]{14}\.[0-9a-f]{32,}",
    "r": r"8_[A-Za-z0-9]{16,}|k_(?:live|test)_[A-Za-z0-9]{16,}",
    "s": r"k-[\w-]{8,}"  # OpenAI, Anthropic, OpenRouter, DeepSeek, LiteLLM and whoever speaks their API
    r"|k_(?:(?:live|test)_)?[A-Za-z0-9]{16,}|bp_[\w-]{16,}|b_secret_[\w-]{16,}|ntry[su]_[\w+/=-]{16,}"
    r"|hp(?:at|ca|pa|ss)_[0-9a-fA-F]{16,}",
    "t": r"gp_v1_[\w-]{16,}|skey-[\w-]{12,}",
    "w": r"hsec_[\w+/=]{16,}",
    "x": r"ai-[A-Za-z0-9]{16,}|ox[a-z](?:\.xox[a-z])?-[\w-]{8,}|app-[\w-]{8,}",
    "y": r"a29\.[\w.-]{8,}",
}
"""By their first character, so that the search stops only where one may begin."""

_KEY: Final = re.compile("|".join(f"{c}(?<![A-Za-z0-9]{c})(?:{rest})" for c, rest in _KEYS.items()), re.ASCII)

_SCHEME: Final = re.compile(
    r"""(?:^|(?<=[,;=:"'])|(?<=[,;=:"']\s))"""
    r"(?:(?:bearer|ssws|dpop|apikey|api-key|genie[- ]?key|negotiate|ntlm)[ \t]+(?P<token>[\w.~+/-]{3,})"
    r"|basic[ \t]+(?P<basic>[a-z0-9+/_-]{4,})"
    r"|(?:token|key)[ \t]+(?P<key>(?=[\w.~+/-]*[0-9])[\w.~+/-]{16,}))"
    # A challenge (`Bearer realm="x"`) has the name of a parameter in the place of the token.
    r"""(?:(?=["'])|={0,2}(?=$|[\s,;&}]))""",
    re.ASCII | re.IGNORECASE,
)
_NEWER: Final = re.compile(
    r"(?<![A-Za-z0-9])[a-z]{2,12}_(?:live|prod|test|pat|key|token|secret)_[A-Za-z0-9]{16,}", re.ASCII
)
_USER: Final = re.compile(r"""(?:(?<=://)|(?<=^//))[^/?#\s"'<>@]++(?:@[^/?#\s"'<>@]++)*(?=@)""")
_MARK: Final = re.compile(re.escape(MARK) + "[0-9a-f]{12}")
_PRIVATE_KEY: Final = re.compile("-----BEGIN[A-Z ]*PRIVATE KEY-----.*")
_BOT: Final = re.compile(r"[0-9]{8,10}:AA[\w-]{30,}", re.ASCII)
_REFRESH: Final = re.compile(r"(?<![A-Za-z0-9])1//0[\w-]{20,}", re.ASCII)

_IF_THERE_IS: Final = (
    ("@", _USER),
    ("_", _NEWER),
    (MARK, _MARK),
    (":AA", _BOT),
    ("1//0", _REFRESH),
    ("-----BEGIN", _PRIVATE_KEY),
)
"""Forms that are looked for only in a text that holds this."""

_NUMBERS: Final = re.compile(r"[0-9a-f:.,+\s-]*")
"""Ids, addresses, counts: none of the forms is made of these alone."""


def spans(text: str) -> list[tuple[int, int]]:
    """Where each begins and ends, in order. What looks like a mark of ours is one too: only we make marks."""
    if _NUMBERS.fullmatch(text):
        return []
    found = [match.span() for match in _KEY.finditer(text)]
    if " " in text or "\t" in text:
        found += [(match.start(match.lastgroup or 0), match.end()) for match in _SCHEME.finditer(text)]
    for part, form in _IF_THERE_IS:
        if part in text:
            found += [match.span() for match in form.finditer(text)]
    return _joined(sorted(found)) if len(found) > 1 else found


def _joined(found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same without overlaps."""
    joined = found[:1]
    for start, end in found[1:]:
        if start < joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined
