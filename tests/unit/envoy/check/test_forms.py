"""Whatever form of a value Envoy's own parser takes, `check` takes, and what is published is what was meant.

The judge is the real Envoy: each form is read by both, and in the end an Envoy on the files as they were written and
one on the files as they would be published must have read the same.
"""

from __future__ import annotations

import concurrent.futures
import json
import random
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from support import envoys

from extproc.envoy.check import check, typed
from extproc.envoy.config import files, source

SCALARS: Final = (
    *("", "~", "null", "Null", '""', "''", "true", "TRUE", "True", "tRUE", "false", "y", "Y", "n", "N", "yes", "no"),
    *("on", "Off", '"true"', '"True"', '"t"', '"yes"', '"on"', '"1"', '"0"', '"2"', "0", "1", "-0", "+1", "-1", "2"),
    *("010", "08", "0o10", "0x1f", "0X1F", '"010"', '"0x1f"', '"+1"', '" 1"', '"1 "', "1_0", '"1_0"', "1:30", "0b1"),
    *("1.0", "1.5", "1.50", "1.", ".5", "5e0", '"1.0"', '"1.5"', '"1e0"', "1e3", "1e-3", ".inf", ".nan", '"inf"'),
    *("2147483647", "2147483648", "4294967295", "4294967296", '"4294967295"', "-2147483649", "99999999999999999999"),
    *("9223372036854775808", "5s", '"5s"', "0.25s", "5", "5.s", ".5s", "+5s", "5m", "05s", "5S", '" 5s"', "-5s"),
    *("2026-11-21", "a", "=", "<<", "a:b", "!!str 5", '!!int "5"', "!mine a", "|-\n  y", ">-\n  5"),
    *(
        "[]",
        "[a]",
        "[[a]]",
        "[1]",
        "[null]",
        "[null, a]",
        "{}",
        "{a: b}",
        "{value: 1}",
        '{value: "true"}',
        "{value: x}",
    ),
    *("{seconds: 5}", '{seconds: "5", nanos: 500000000}', "{seconds: x}", "{nanos: null}", "{seconds: 5, x: 1}"),
    *("V4_ONLY", "v4_only", "V4-ONLY", "v4only", "AUTO_", '"01"', "1.0", "&x a"),
)
"""Ways to write a scalar, right in one place and wrong in another."""

FIELDS: Final = {
    "string": "alt_stat_name: $",
    "bool": "respect_dns_ttl: $",
    "BoolValue": "wait_for_warm_on_init: $",
    "uint32": "load_assignment: {cluster_name: a, endpoints: {priority: $}}",
    "UInt32Value": "per_connection_buffer_limit_bytes: $",
    "UInt64Value": "ring_hash_lb_config: {minimum_ring_size: $}",
    "int64": "health_checks: {http_health_check: {expected_statuses: {start: $}}}",
    "double": "common_lb_config: {healthy_panic_threshold: {value: $}}",
    "enum": "dns_lookup_family: $",
    "Duration": "dns_refresh_rate: $",
    "message": "upstream_connection_options: $",
    "repeated string": "lb_subset_config: {subset_selectors: {keys: $}}",
    "repeated enum": "health_checks: {http_health_check: {method: $}}",
    "repeated message": "health_checks: $",
    "map": "metadata: {filter_metadata: $}",
    "Struct": "metadata: {filter_metadata: {a: $}}",
    "Any": "transport_socket: {name: x, typed_config: $}",
    "of two, one": "type: EDS\ncluster_type: $",
    "camelCase": "commonLbConfig: {closeConnectionsOnHostSetChange: $}",
    "another case": "DNS_LOOKUP_FAMILY: $",
    "twice": "dnsLookupFamily: AUTO\ndns_lookup_family: $",
    "no field": "lookup: $",
}  # fmt: skip
"""A member of a cluster for each kind of field; what is to be tried stands for the $."""


NONE: Final = ("another case", "no field")
"""Those of which no form is right."""
SHARE: Final = 4
"""Of what we refuse Envoy is asked about one in so many: all of it takes two minutes, and has been seen."""


def bootstrap(*clusters: str) -> str:
    """A bootstrap with these clusters, which are named `c0`, `c1` and so on."""
    text = "static_resources:\n  clusters:\n"
    for number, members in enumerate(clusters):
        lines = [f"name: c{number}", "connect_timeout: 1s", *members.split("\n")]
        text += "  - " + "\n    ".join(lines) + "\n"
    return text


def member(field: str, form: str) -> str:
    """A field with its value in this form. What has lines of its own cannot stand in braces."""
    name, _, rest = FIELDS[field].rpartition("$")
    return name + form.replace("\n", "\n    " if not rest else "\n") + rest


def refused(text: str) -> str | None:
    """What we have against reading a bootstrap; None when we can. A number that no value of an enum has is for
    Envoy's validation to judge, after it was read."""
    try:
        read = source.parse(text.encode(), "envoy.yaml")
    except source.SyntaxProblem as problem:
        return str(problem)
    found = [each for each in typed.mismatches(read.value, typed.BOOTSTRAP) if not _NUMBER.fullmatch(each.name)]
    return found[0].text if found else None


_NUMBER: Final = re.compile(r" *[+-]?[0-9]+ *")


def rewritten(text: str) -> str:
    """A bootstrap as it would be published."""
    documents = files.Documents()
    documents.add(files.BOOTSTRAP, source.parse(text.encode(), files.BOOTSTRAP))
    return files.text(check.in_form(documents)[files.BOOTSTRAP])


def forms_of(field: str) -> list[str]:
    """The forms that can stand there: what has lines of its own cannot stand in braces."""
    return [form for form in SCALARS if "\n" not in form or FIELDS[field].endswith("$")]


def test_what_we_take_envoy_takes(tmp_path: Path) -> None:
    """As it was written, and as it would be published: every form of every field that we can read, in one bootstrap."""
    for field in FIELDS:
        written = [member(field, form) for form in forms_of(field)]
        fine = [each for each in written if refused(bootstrap(each)) is None]
        assert bool(fine) == (field not in NONE), field
        text = bootstrap(*fine)
        if envoys.unreadable(text, tmp_path) is not None or envoys.unreadable(rewritten(text), tmp_path) is not None:
            each = {one: envoys.unreadable(bootstrap(one), tmp_path) for one in fine}
            again = {one: envoys.unreadable(rewritten(bootstrap(one)), tmp_path) for one in fine}
            assert [one for one in fine if each[one] or again[one]] == [], field


@pytest.mark.parametrize("field", FIELDS)
def test_what_envoy_takes_we_take(tmp_path: Path, field: str) -> None:
    """Envoy names the first thing that it cannot read, so each that we refuse is shown to it alone: every third."""
    written = [member(field, form) for form in forms_of(field)]
    refusals = [each for each in written if refused(bootstrap(each)) is not None]
    asked = refusals[list(FIELDS).index(field) % SHARE :: SHARE]

    def takes(number: int) -> bool:
        return envoys.unreadable(bootstrap(asked[number]), tmp_path, f"{number}.yaml") is None

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        taken = list(pool.map(takes, range(len(asked))))
    assert [each for each, fine in zip(asked, taken, strict=True) if fine] == []


# What is written ------------------------------------------------------------------------------------------------

AMBIGUOUS: Final = (
    *("y", "Y", "n", "N", "yes", "Yes", "YES", "no", "on", "On", "off", "OFF", "true", "True"),
    *("TRUE", "false", "tRue"),
    *("", " ", "~", "null", "Null", "NULL", "nUll", "none", "None", "nan", ".nan", ".NaN", ".inf"),
    *("-.INF", "inf", "+.inf"),
    *("0", "1", "-1", "+1", "00", "010", "08", "0o10", "0x1f", "0X1F", "0b1", "1_000", "1:30", "190:20:30", "1:30.5"),
    *("1.5", "1.50", "1.", ".5", "-.5", "1e3", "1E3", "1e+3", "1.5e3", "5e", "e5", "1,000", "2147483648", "9" * 30),
    *("2026-11-21", "2026-11-21T03:12:00Z", "2026-11-21 03:12:00 +1", "=", "<<", "-", "--", "---"),
    *("...", "- a", "?", "? a"),
    *(":", "a:", "a: b", ":a", "a:b", "#", "a #b", "a#b", "&a", "*a", "!a", "!!str a", "|", ">"),
    *("|-", "%a", "@a", "`a"),
    *("[", "]", "[a]", "{", "}", "{a: b}", ",", "a, b", "'", '"', "'a'", '"a"', "\\", "\\n", "a\\", "it's", "\"'"),
    *("\n", "a\n", "\na", "a\nb", "a\n\nb\n\n", "\t", "a\tb", " a", "a ", "a\r\nb", "\r", "\0"),
    *("\x01", "\x1b[0m", "\x7f"),
    *("\x85", "\xa0", "\u2028", "\u2029", "\ufeff", "\ufffd", "é", "日本", "\U0001f600"),
    *("a" * 300, "a b " * 200, "x: " * 90),
    *("5s", "0.25s", "100%", "%REQ(:METHOD)%", "a\\u0041", "k\u0301", "{{a}}", "${A}"),
    *("http://a/b?c=d&e#f", "127.0.0.1"),
)  # fmt: skip
PIECES: Final = (*AMBIGUOUS, *"abyn0189.:-+_eExX ~\n\t#'\"\\")


def scalars(seed: int, count: int) -> list[str]:
    """Those above, and as many again that are put together of them."""
    chosen = random.Random(seed)
    return [*AMBIGUOUS, *("".join(chosen.choices(PIECES, k=chosen.randint(1, 4))) for _ in range(count))]


def test_a_string_that_is_published_stays_one(tmp_path: Path) -> None:
    """Each of two thousand is read as what it was, as a value and as a name, by Envoy, and by YAML's older rules."""
    values = scalars(10, 2000)
    held: dict[str, Any] = {
        "values": values,
        "names": {f"x{value}": "" for value in values} | dict.fromkeys(AMBIGUOUS, ""),
    }
    cluster = {"name": "a", "connect_timeout": "1s", "metadata": {"filter_metadata": {"a": held}}}
    text = files.text({"static_resources": {"clusters": [cluster]}})
    assert yaml.safe_load(text)["static_resources"]["clusters"] == [cluster]
    (read,) = envoys.has_read(text, tmp_path)["static_resources"]["clusters"]
    there = read["metadata"]["filter_metadata"]["a"]
    assert [(was, now) for was, now in zip(values, there["values"], strict=True) if was != now] == []
    assert there["names"].keys() == held["names"].keys()


NUMBERS: Final = (0, 1, -1, 2**31 - 1, -(2**31), True, False, None, 1.5, -0.25, 100.0)


def test_what_is_no_string_stays_none(tmp_path: Path) -> None:
    """Numbers and truth are not put into quotes. A fraction is a string to Envoy's YAML, however it is written."""
    text = files.text({"static_resources": {"clusters": [
        {"name": "a", "connect_timeout": "1s", "metadata": {"filter_metadata": {"a": {"values": list(NUMBERS)}}}}
    ]}})  # fmt: skip
    (read,) = envoys.has_read(text, tmp_path)["static_resources"]["clusters"]
    values = read["metadata"]["filter_metadata"]["a"]["values"]
    assert values == [str(each) if isinstance(each, float) else each for each in NUMBERS]


# A whole configuration --------------------------------------------------------------------------------------


def standing() -> dict[str, Any]:
    """The shipped configuration in one bootstrap, as Envoy is asked about it, without its admin interface."""
    documents, _ = check._standing(files.read(None))
    bootstrap: dict[str, Any] = documents[files.BOOTSTRAP]
    del bootstrap["admin"]
    for listener in bootstrap["static_resources"]["listeners"]:
        listener["address"]["socket_address"] |= {"address": "127.0.0.1", "port_value": 0}
    return bootstrap


def altered(value: Any, alter: Callable[[Any], Any], path: source.Pointer = ()) -> Any:
    """A value with each scalar in it altered; what stands in an access log's format, and types, are left."""
    if isinstance(value, dict) and not is_unknown(value):
        return {
            name: item if name in ("@type", "json_format") else altered(item, alter, (*path, name))
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [altered(item, alter, (*path, index)) for index, item in enumerate(value)]
    return value if isinstance(value, dict) else alter(value)


def is_unknown(value: dict[str, Any]) -> bool:
    """Whether it is of a type of which we know the name only, so that it is published as it was written."""
    return str(value.get("@type")).removeprefix(typed.ANY_PREFIX) in typed.NEWER


def camel(value: Any) -> Any:
    """Members by their other names. What is in maps, and in a struct, has names of its own."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict) or is_unknown(value):
        return value
    own = ("filter_metadata", "json_format", "typed_extension_protocol_options", "typed_per_filter_config")
    return {
        typed._camel(name): {key: item if name in own[:2] else camel(item) for key, item in value_.items()}
        if name in own
        else camel(value_)
        for name, value_ in value.items()
    }


def single(value: Any) -> Any:
    """Lists of one thing as the thing."""
    if isinstance(value, dict):
        return {
            name: item if name in ("json_format", "filter_metadata") else single(item) for name, item in value.items()
        }
    if isinstance(value, list):
        return single(value[0]) if len(value) == 1 else [single(item) for item in value]
    return value


UPPER: Final = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|SEND|BUFFERED|STREAMED|DELTA|STATIC")
DURATION: Final = re.compile(r"([0-9]+)(?:\.([0-9]+))?s")


def lower(value: Any) -> Any:
    """Enum values in small letters."""
    return value.lower() if isinstance(value, str) and UPPER.fullmatch(value) and "SPAN" not in value else value


def spelt(value: Any) -> Any:
    """Truth in words."""
    return {True: "yes", False: "N"}[value] if isinstance(value, bool) else value


def quoted(value: Any) -> Any:
    """Numbers and truth in quotes."""
    return str(value).lower() if isinstance(value, int) else value


def whole(value: Any) -> Any:
    """Durations as messages."""
    match = DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    return {"seconds": match[1], "nanos": int((match[2] or "").ljust(9, "0"))}


CHANGES: Final[dict[str, Callable[[Any], str]]] = {
    "as it is": files.text,
    "JSON": json.dumps,
    "JSON with tabs": lambda value: json.dumps(value, indent="\t"),
    "enums in small letters": lambda value: files.text(altered(value, lower)),
    "truth in words": lambda value: files.text(altered(value, spelt)).replace('"yes"', "yes").replace('"N"', "N"),
    "numbers in quotes": lambda value: files.text(altered(value, quoted)),
    "durations as messages": lambda value: files.text(altered(value, whole)),
    "one thing for a list": lambda value: files.text(single(value)),
    "camelCase": lambda value: files.text(camel(value)),
    "aliases": lambda value: (
        yaml.safe_dump({"static_resources": value["static_resources"]}, sort_keys=False)
        + yaml.safe_dump({name: item for name, item in value.items() if name != "static_resources"})
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_whole_configuration_in_another_form(tmp_path: Path, change: str) -> None:
    """Envoy reads the same in it as in ours, and in what would be published of it; and nothing is found in it."""
    text = CHANGES[change](standing())
    documents = files.Documents()
    documents.add(files.BOOTSTRAP, source.parse(text.encode(), files.BOOTSTRAP))
    assert [str(each) for each in check.types(documents).findings] == []
    made = check.in_form(documents)
    assert made[files.BOOTSTRAP] == check.in_form(documents_of(standing()))[files.BOOTSTRAP]
    assert envoys.refusal(text, tmp_path) is None
    assert envoys.refusal(files.text(made[files.BOOTSTRAP]), tmp_path) is None


def documents_of(bootstrap: dict[str, Any]) -> files.Documents:
    """A bootstrap alone."""
    documents = files.Documents()
    documents.add(files.BOOTSTRAP, source.Source(bootstrap, source.Places(files.BOOTSTRAP)))
    return documents


# Types ------------------------------------------------------------------------------------------------------


def test_the_names_of_types_are_envoys(tmp_path: Path) -> None:
    """Every type that this Envoy has an extension for is known by that name, also where no Envoy is installed."""
    with envoys.admin_of("", tmp_path) as url, urllib.request.urlopen(f"{url}/server_info") as answer:
        extensions = json.load(answer)["node"]["extensions"]
    names = {name for each in extensions for name in each.get("type_urls", ())}
    assert len(names) > 300
    known = {name for name in names if typed._message(name) is not None}
    assert names - known - {"google.protobuf.Empty"} == typed.NEWER
