"""The links between nodes as a table that can be read at a glance."""

from itertools import combinations

from hpcllm.report.link_matrix import SHOWN_NODES, link_matrix


def rates(hosts: list[str], slow: str = "", fast: float = 12.5e9) -> dict[tuple[str, str], float]:
    return {pair: 118e6 if slow in pair else fast for pair in combinations(hosts, 2)}


def test_every_pair_has_a_cell_and_the_links_of_a_slow_node_a_star():
    matrix = link_matrix(rates(["n1", "n2", "n3", "n4"], slow="n3"))

    assert matrix is not None
    assert matrix.lines() == [
        "GB/s        n1      n2      n3      n4",
        "n1           ·    12.5   0.118*   12.5",
        "n2        12.5       ·   0.118*   12.5",
        "n3       0.118*  0.118*      ·   0.118*",
        "n4        12.5    12.5   0.118*      ·",
        "* below half of the median of all links",
    ]


def test_a_pair_that_nobody_measured_is_empty():
    matrix = link_matrix({("n1", "n2"): 1e9, ("n2", "n3"): 1e9})

    assert matrix is not None
    assert matrix.rows[0][2].text == ""
    assert not any(cell.slow for row in matrix.rows for cell in row)


def test_of_many_nodes_the_slowest_are_shown():
    hosts = [f"node{number:03}" for number in range(40)]
    matrix = link_matrix(rates(hosts, slow="node037"))

    assert matrix is not None
    assert "node037" in matrix.hosts
    assert len(matrix.hosts) == SHOWN_NODES
    assert f"the slowest {SHOWN_NODES} nodes; 24 more are not shown" in matrix.lines()


def test_one_node_has_no_links():
    assert link_matrix({}) is None
