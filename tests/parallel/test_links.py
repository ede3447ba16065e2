"""What preflight says of measured links, and by which interface they went: no MPI, facts in, findings out."""

from pathlib import Path

import pytest

from hpcllm.parallel.expected import Expected
from hpcllm.parallel.finding import Finding
from hpcllm.parallel.links import Link, check_links
from hpcllm.parallel.traffic import carrier, sent_bytes

HOSTS = ("n1", "n2", "n3", "n4")
IB = Expected(rate_bytes_per_s=25e9, fabric="infiniband", names=(("fabric.interfaces", "ib0"),))


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def links(slow: set[int], nodes: int = 4, fast_bytes_per_s: float = 2e9) -> list[Link]:
    """All pairs; those of a slow node do 25 MB/s."""
    pairs = [(a, b) for a in range(nodes) for b in range(a + 1, nodes)]
    return [Link(pair, 25e6 if slow & set(pair) else fast_bytes_per_s) for pair in pairs]


def test_equal_links_are_fine():
    assert check_links(links(slow=set()), HOSTS, Expected()) == []
    assert check_links([], HOSTS, Expected()) == []


@pytest.mark.parametrize("nodes", [3, 4])
def test_the_node_with_the_slow_link_is_named_and_its_partners_are_not(nodes):
    finding = only(check_links(links(slow={2}, nodes=nodes), HOSTS, Expected()))

    assert finding.severity == "error"
    assert finding.what == "n3 is slow: 25 MB/s with its best partner; the other nodes reach 2 GB/s"
    assert "--exclude=n3" in finding.action


def test_two_slow_nodes_of_many_are_both_named():
    hosts = [f"n{number}" for number in range(1, 7)]
    found = check_links(links(slow={0, 5}, nodes=6), hosts, Expected())

    assert [finding.what.split()[0] for finding in found] == ["n1", "n6"]


def test_of_two_nodes_the_profile_tells_that_their_link_is_slow():
    pair = links(slow={1}, nodes=2)

    assert check_links(pair, HOSTS, Expected()) == []
    finding = only(check_links(pair, HOSTS, Expected(rate_bytes_per_s=25e9)))
    assert finding.what == "25 MB/s between n1 and n2; a rail does 25 GB/s (fabric.rate)"
    assert finding.cause.startswith("one of the two has a slow link")


def test_a_node_that_reaches_what_the_profile_promises_is_not_slow_beside_faster_ones() -> None:
    pairs = links(slow={2})  # 25 MB/s beside 2 GB/s

    assert check_links(pairs, HOSTS, Expected(rate_bytes_per_s=20e6)) == []
    assert "n3 is slow" in only(check_links(pairs, HOSTS, Expected(rate_bytes_per_s=200e6))).what


def test_a_fabric_that_is_slow_everywhere_names_no_node():
    finding = only(check_links(links(slow=set()), HOSTS, Expected(rate_bytes_per_s=25e9, fabric="infiniband")))

    assert finding.cause == "MPI goes over TCP in place of infiniband (an order of magnitude below)"


def test_a_network_that_is_tcp_has_nothing_to_fall_back_from():
    finding = only(check_links(links(slow=set()), HOSTS, Expected(rate_bytes_per_s=25e9, fabric="ethernet")))

    assert finding.cause == "MPI goes over another, slower interface"


# ---- which network it was


def test_counters_that_grew_by_what_was_sent_prove_a_fallback_to_tcp():
    finding = only(check_links(links(slow=set()), HOSTS, IB, ["eth0"] * 4))

    assert finding.cause == "MPI goes over TCP in place of infiniband by eth0, whose counters show the messages"


def test_a_fallback_that_is_fast_enough_is_a_warning():
    finding = only(check_links(links(slow=set(), fast_bytes_per_s=20e9), HOSTS, IB, ["", "eth0", "", ""]))

    assert finding.severity == "warning"
    assert finding.what == "MPI goes over TCP in place of infiniband: the counters of eth0 on n2 show the messages"


def test_a_fabric_that_passes_the_kernel_by_is_fine():
    assert check_links(links(slow=set(), fast_bytes_per_s=20e9), HOSTS, IB, [""] * 4) == []


def test_ethernet_goes_over_the_interface_that_the_profile_names():
    ethernet = Expected(rate_bytes_per_s=2e9, fabric="ethernet", names=(("fabric.interfaces", "eth1"),))

    assert check_links(links(slow=set()), HOSTS, ethernet, ["eth1"] * 4) == []
    assert "another interface than eth1" in only(check_links(links(slow=set()), HOSTS, ethernet, ["eth0"] * 4)).what


def test_the_kernels_counters_are_read_without_the_loopback(tmp_path: Path):
    numbers = "7 0 0 0 0 0 0 0"
    (tmp_path / "dev").write_text(
        f"head\nhead\n    lo: {numbers} 5 0\n  eth0: {numbers} 12345678901 0\nib0:{numbers} 3 0\n"
    )

    assert sent_bytes(tmp_path / "dev") == {"eth0": 12345678901, "ib0": 3}
    assert sent_bytes(tmp_path / "nowhere") == {}


def test_an_interface_carried_what_it_sent_meanwhile():
    before = {"eth0": 1000, "ib0": 0}

    assert carrier(before, {"eth0": 9000, "ib0": 300}, 8000) == "eth0"
    assert carrier(before, {"eth0": 2000, "ib0": 300}, 8000) == ""
    assert carrier({}, {}, 8000) == ""
