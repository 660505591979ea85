"""envoy/examples/client-ip-hash, consistent-hash and header-hash: the same key goes to the same server."""

from __future__ import annotations

import concurrent.futures
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.exchanges import present
from support.recipes import Client, Recipe
from support.servers import Servers, plain

TRUSTED = """
static_resources:
  listeners:
  - name: ingress
    filter_chains:
    - name: ingress
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config: {xff_num_trusted_hops: 1}
"""

Ask = Callable[[Client, int], Any]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Three servers, for each recipe in its turn, and a fourth to be added."""
    with Servers(4) as running:
        yield running


@pytest.fixture
def backends(servers: Servers) -> Mapping[int, int]:
    """The first three."""
    return {port: real for port, real in servers.ports.items() if port < 8004}


def owners(recipe: Recipe, keys: int, ask: Ask = plain) -> dict[int, str]:
    """Which server gets each key, over several connections at once, and so over both of Envoy's threads."""

    def some(numbers: range) -> dict[int, str]:
        client = recipe.client()
        return {number: answer.upstream for number in numbers if (answer := ask(client, number)).status == 200}

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = {
            key: owner for part in pool.map(some, [range(i, keys, 4) for i in range(4)]) for key, owner in part.items()
        }
    assert len(found) == keys
    return found


def are_spread(owners: Mapping[int, str]) -> bool:
    """Three servers have a third each, within five deviations of chance and as much again of how even hashing is."""
    share, slack = len(owners) / 3, 5 * (len(owners) * 2 / 9) ** 0.5 + len(owners) * 0.03
    counts = Counter(owners.values())
    return len(counts) == 3 and all(abs(count - share) <= slack for count in counts.values())


def over(recipe: Recipe) -> None:
    """The end of every test."""
    assert recipe.stop() == 0
    assert recipe.findings() == []


# By URI ----------------------------------------------------------------------------------------------------


def maglev(name: str, text: str) -> str:
    """The alternative that stands there as a comment takes the place of what stands before it."""
    if name != "overlay.yaml":
        return text
    ring = text.index("    - typed_extension_config:")
    comment = text.index("    # Or Maglev")
    end = text.index("  load_assignment:")
    lines = text[comment:end].splitlines()[1:]
    return text[:ring] + "".join(line.replace("    # ", "    ", 1) + "\n" for line in lines) + text[end:]


def with_one_more(text: str, port: int) -> str:
    """The last endpoint once more, at another port."""
    return text + re.sub(r"port_value: \d+", f"port_value: {port}", text.splitlines()[-1]) + "\n"


@pytest.mark.parametrize(
    ("edit", "grown", "least", "most"),
    [
        pytest.param(None, "4096", 180, 320, id="ring-that-grows"),
        pytest.param(None, "3072", 280, 420, id="ring-left-alone"),
        pytest.param(maglev, "", 180, 320, id="maglev"),
    ],
)
def test_an_added_server_moves_few_keys(
    *,
    tmp_path: Path,
    servers: Servers,
    backends: Mapping[int, int],
    edit: Callable[[str, str], str] | None,
    grown: str,
    least: int,
    most: int,
) -> None:
    """A quarter of 1,000 (five deviations) for the fourth, where three quarters would move by `hash modulo servers`."""
    fourth = servers.all[3].port
    with Recipe("consistent-hash", tmp_path, backends=backends, edit=edit) as recipe:
        before = owners(recipe, 1000)
        assert are_spread(before)
        assert owners(recipe, 200) == {key: before[key] for key in range(200)}
        recipe.edit("overlay.yaml", lambda text: with_one_more(text, fourth).replace("3072", grown))
        after = owners(recipe, 1000)
        moved = [key for key in before if before[key] != after[key]]
        assert least <= len(moved) <= most
        if grown == "4096":
            assert {after[key] for key in moved} == {f"127.0.0.1:{fourth}"}
        over(recipe)


def test_the_whole_uri_is_the_key(tmp_path: Path, backends: Mapping[int, int]) -> None:
    """A POST to an LLM is always the same one, whatever its body; the record says where it went."""
    with Recipe("consistent-hash", tmp_path, backends=backends) as recipe:
        answers = [recipe.client().chat(x_user=str(number)) for number in range(20)]
        assert len({answer.upstream for answer in answers}) == 1
        exchange = recipe.settled(answers[0])
        assert (exchange.upstream, exchange.cluster) == (answers[0].upstream, "llm")
        over(recipe)


# By header -------------------------------------------------------------------------------------------------


def test_a_user_stays(tmp_path: Path, backends: Mapping[int, int]) -> None:
    """By `x-user`, whatever the URI; who sends none goes anywhere."""

    def of_user(client: Client, number: int) -> Any:
        return client.ask("GET", "/v1/models", x_user=f"user-{number}")

    with Recipe("header-hash", tmp_path, backends=backends) as recipe:
        first = owners(recipe, 300, of_user)
        assert are_spread(first)
        assert owners(recipe, 300, lambda client, n: client.ask(body={"n": n}, x_user=f"user-{n}")) == first
        assert are_spread(owners(recipe, 300, lambda client, _: client.ask("GET", "/v1/models")))
        over(recipe)


# By client address -----------------------------------------------------------------------------------------


def from_address(recipe: Recipe, address: str, **headers: str) -> str:
    """The server that a client of an address gets."""
    with recipe.client(address) as client:
        answer = client.ask("GET", "/v1/models", **headers)
    assert answer.status == 200
    return answer.upstream or "none"


def addresses(number: int) -> str:
    """127.0.0.2, 127.0.1.2, 127.0.2.2, ...: each in a network of its own."""
    return f"127.0.{number}.2"


def test_a_client_stays(tmp_path: Path, backends: Mapping[int, int]) -> None:
    """By its address, over connections; what it claims in x-forwarded-for changes nothing."""
    with Recipe("client-ip-hash", tmp_path, backends=backends) as recipe:
        first = {number: from_address(recipe, addresses(number)) for number in range(200)}
        assert are_spread(first)
        assert {number: from_address(recipe, addresses(number)) for number in range(200)} == first
        claims = {from_address(recipe, "127.0.0.2", x_forwarded_for=f"10.0.0.{number}") for number in range(20)}
        assert claims == {first[0]}
        answer = recipe.client("127.0.7.2").ask("GET", "/v1/models")
        exchange = recipe.settled(answer)
        assert present(exchange.client).startswith("127.0.7.2:")
        assert exchange.upstream == first[7]
        over(recipe)


def test_behind_a_proxy(tmp_path: Path, backends: Mapping[int, int]) -> None:
    """With one trusted hop the client's address is the one that the proxy has put into x-forwarded-for."""
    recipe = Recipe("client-ip-hash", tmp_path, backends=backends)
    with (recipe.envoy_dir / "overlay.yaml").open("a") as overlay:
        overlay.write(TRUSTED)

    def of_client(client: Client, number: int) -> Any:
        return client.ask("GET", "/v1/models", x_forwarded_for=f"192.0.2.1, 10.1.{number}.1")

    with recipe:
        first = owners(recipe, 200, of_client)
        assert are_spread(first)
        assert owners(recipe, 200, of_client) == first
        over(recipe)


def by_network(name: str, text: str) -> str:
    """The alternative that stands there as a comment."""
    text = re.sub(r"(?m)^ +- \{connection_properties: .*\n", "", text)
    text = re.sub(r"(?m)^ +# Or by the network.*\n", "", text)
    return re.sub(r"(?m)^( {12})# (- header:|    header_name:|    regex_rewrite:)", r"\1\2", text)


def test_a_network_stays(tmp_path: Path, backends: Mapping[int, int]) -> None:
    """As with nginx: the last octet has no say, the first three have."""
    with Recipe("client-ip-hash", tmp_path, backends=backends, edit=by_network) as recipe:
        assert len({from_address(recipe, f"127.0.0.{last}") for last in range(1, 31)}) == 1
        assert are_spread({number: from_address(recipe, addresses(number)) for number in range(200)})
        over(recipe)
