"""What is a credential by its form."""

from __future__ import annotations

import pytest

from extproc.core.secret_values import spans

A = "Ab1" * 14
HEX = "0a1b" * 12
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"

KEYS = [
    *("sk-abcdefgh", f"sk-proj-{A}", f"sk-ant-api03-{A}_-x", f"sk-or-v1-{HEX}", f"sk-lf-{HEX}", f"pk-lf-{HEX}"),
    *(f"sk_{HEX}", f"sk_live_{A}", f"rk_test_{A}", f"whsec_{A}", f"gsk_{A}", f"hf_{A}", f"xai-{A}", f"r8_{A}"),
    *(f"pplx-{A}", f"nvapi-{A}", f"csk-{A}", f"fw_{A}", f"tgp_v1_{A}", f"lsv2_pt_{HEX}_0a", f"dapi{HEX[:32]}"),
    *("AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE", f"ABSK{A}==", f"AIza{A[:35]}", f"ya29.{A}", f"GOCSPX-{A}"),
    *(
        f"1//0{A}",
        f"ghp_{A}",
        f"gho_{A}",
        f"ghs_{A}",
        f"github_pat_{A}_{A}",
        f"glpat-{A}",
        f"xoxb-1-2-{A}",
        f"xapp-1-{A}",
    ),
    *(
        f"npm_{A}",
        f"pypi-{A}",
        f"dop_v1_{HEX}",
        f"SG.{A}.{A}",
        f"shpat_{HEX}",
        f"hvs.{A}",
        f"dp.pt.{A}",
        f"lin_api_{A}",
    ),
    *(f"ntn_{A}", f"PMAK-{HEX}-{HEX}", f"NRAK-{A}", f"glsa_{A}_0a", f"sntrys_{A}", f"sbp_{HEX}", f"sb_secret_{A}"),
    *(f"tskey-auth-{A}", f"ATATT3{A}", f"AGE-SECRET-KEY-1{A.upper()}", JWT, f"{JWT}.x.y", f"110201543:AA{A}"),
    *(f"pat{A[:14]}.{HEX}", f"acme_live_{A}", f"acme_secret_{A}", "redacted:0123456789ab"),
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("around", ["{}", "a {} b", "x={}&y", '{{"k":"{}"}}', "p.{}", "/v1/{}/x"])
def test_the_keys_of_vendors(key: str, around: str) -> None:
    """Wherever in a text one stands, it is found, and found whole; some forms may have the slash of a path in them."""
    text = around.format(key)
    assert [text[start:end].removesuffix("/x") for start, end in spans(text)] == [key]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc.def~ghi+/-_==", "abc.def~ghi+/-_=="),
        ("Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("Basic dTpw==, x", "dTpw=="),
        ("Authorization: Bearer abc", "abc"),
        ('{"a":"Bearer abc"}', "abc"),
        ("Token 0123456789abcdef0", "0123456789abcdef0"),
        ("SSWS 00abc", "00abc"),
        ("https://user:pass@host/p@q", "user:pass"),
        ("https://token@host", "token"),
        ("postgres://u:p@ss@db:5432/x", "u:p@ss"),
        ("//u:p@host/", "u:p"),
        ("-----BEGIN RSA PRIVATE KEY-----MII", "-----BEGIN RSA PRIVATE KEY-----MII"),
    ],
)
def test_schemes_users_and_private_keys(text: str, secret: str) -> None:
    """Only what is secret of it."""
    assert [text[start:end] for start, end in spans(text)] == [secret]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12345",
        "8f14e45f-ceea-467f-a8d0-e4a2c1b3d5f6",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "sk-SK,sk;q=0.9,cs;q=0.8",
        'Bearer realm="x", error="invalid_token"',
        "Bearer error=x",
        "a bearer of good news",
        "Basic Crawler/1.0 (+http://a)",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
        "OpenAI/Python 1.99.1",
        "task-management-service-x",
        "/v1/models/hf_transformers_something_long",
        "mailto:a@b.example",
        "/a//b@c/d",
        "https://host/@user/x@y",
        "text/html, application/json;q=0.9",
        "eyJ is how they begin",
        "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
    ],
)
def test_what_is_no_credential(text: str) -> None:
    """Ids, languages, challenges, programs."""
    assert spans(text) == []
