"""Measured against stated: generous, and every slow node and wrong thing by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from probed_clusters import HOSTS, probed, profile

from hpcllm.cluster.measured import Measured
from hpcllm.cluster.probe.found import Probed, read_probed
from hpcllm.cluster.probe.verdicts import Verdict, judge, verdicts, worst
from hpcllm.errors import HpcllmError
from hpcllm.run_directory import Run, write_json


def line(key: str, found: Probed, of: object = None) -> Verdict:
    lines = [verdict for verdict in verdicts(of or profile(), found) if verdict.key == key]  # type: ignore[arg-type]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("measured", "word"), [(100.0, "ok"), (50.0, "ok"), (49.0, "slow"), (10.0, "slow"), (9.0, "broken")]
)
def test_half_of_what_was_stated_is_ok_and_below_a_tenth_is_broken(measured: float, word: str) -> None:
    assert judge(measured, 100.0) == word
    assert judge(measured, None) == "not stated"


def test_a_healthy_cluster_has_no_line_that_is_slow_or_broken() -> None:
    found = verdicts(profile(), probed())

    assert {verdict.word for verdict in found} == {"ok", "not stated"}
    assert worst(found) == "ok"


def test_a_node_with_a_slow_link_is_named_and_the_figure_is_that_of_the_others() -> None:
    found = line("fabric.rate", probed(slow={"n2": 3e9}))

    assert (found.measured, found.word) == ("20 GB/s", "slow")
    assert found.note == "n2 is slow: 3 GB/s; the other nodes reach 20 GB/s"


def test_a_node_below_a_tenth_of_the_others_is_broken_and_the_figure_is_still_believed() -> None:
    found = line("fabric.rate", probed(slow={"n2": 1e9}))

    assert (found.word, found.believed) == ("broken", True)
    assert "n2 is broken" in found.note


def test_a_node_whose_cores_are_slow_is_named() -> None:
    nodes = probed().nodes
    found = line("nodes.cpu.flops", probed(nodes=(*nodes[:3], replace(nodes[3], flops_per_s=0.3e12))))

    assert found.note == "n4 is slow: 300 GFLOP/s; the other nodes reach 900 GFLOP/s"
    assert found.measured == "900 GFLOP/s"


def test_a_rate_of_an_order_below_a_fast_fabric_is_tcp() -> None:
    found = line("fabric.rate", probed(rate=1.2e9))

    assert (found.word, found.believed) == ("broken", False)
    assert found.note == "an order of magnitude off: MPI goes over TCP in place of infiniband"


def test_a_latency_of_ten_times_the_stated_one_is_tcp_too() -> None:
    found = line("fabric.latency", probed(latency_s=30e-6))

    assert (found.measured, found.stated, found.word) == ("30 µs", "2 µs", "broken")
    assert "TCP in place of infiniband" in found.note


def test_a_slow_ethernet_has_no_faster_protocol_to_lose() -> None:
    ethernet = profile(fabric={"kind": "ethernet"})

    assert "TCP" not in line("fabric.rate", probed(rate=1.2e9), ethernet).note


def test_one_node_says_nothing_of_the_fabric() -> None:
    alone = verdicts(profile(), probed(hosts=HOSTS[:1]))

    assert not [verdict for verdict in alone if verdict.key.startswith("fabric")]


def test_a_finding_of_preflight_is_the_note_of_its_line() -> None:
    finding = {
        "severity": "error",
        "check": "interfaces",
        "what": "ib9: there is none on n2",
        "cause": "a name",
        "action": "x",
    }

    found = line("interfaces", probed(findings=(finding,)))

    assert (found.word, found.note) == ("broken", "ib9: there is none on n2 (a name)")


@pytest.mark.parametrize(("severity", "believed"), [("error", False), ("warning", True)])
def test_where_a_wrong_interface_is_named_no_figure_of_the_network_is_believed(severity: str, believed: bool) -> None:
    wrong = {
        "severity": severity,
        "check": "interfaces",
        "what": "ib9: there is none",
        "cause": "a name",
        "action": "x",
    }

    found = verdicts(profile(), probed(findings=(wrong,)))

    assert (worst(found) == "broken") != believed
    network = [verdict for verdict in found if verdict.key.startswith("fabric")]
    assert {verdict.believed for verdict in network} == {believed}
    assert all(("not written" in verdict.note) != believed for verdict in network)
    assert all(verdict.believed for verdict in found if not verdict.key.startswith("fabric"))


EARLIER = Measured(
    date="2026-11-01",
    world_size=8,
    fabric={"rate": "20GB/s", "latency": "2us"},
    nodes={"cpu": {"flops": "900 GFLOP/s", "date": "2026-10-01"}},
)


def test_while_a_node_is_slow_a_figure_well_below_the_earlier_one_is_not_believed() -> None:
    throttled = probed(slow={"n2": 3e9}, rate=12e9)

    found = {verdict.key: verdict for verdict in verdicts(profile(), throttled, EARLIER)}

    rate = found["fabric.rate"]
    assert (rate.word, rate.believed) == ("slow", False)
    assert rate.note.endswith("; earlier 20 GB/s on 2026-11-01, which stays: a node is slow")
    assert "earlier 2 µs on 2026-11-01" in found["fabric.latency"].note
    assert found["nodes.cpu.flops"].believed


def test_of_healthy_nodes_a_figure_that_fell_is_the_new_one() -> None:
    assert all(verdict.believed for verdict in verdicts(profile(), probed(rate=12e9), EARLIER))


def test_a_figure_of_a_slow_cluster_near_the_earlier_one_is_the_new_one() -> None:
    found = verdicts(profile(), probed(slow={"n2": 3e9}, rate=17e9, latency_s=2.2e-6), EARLIER)

    assert all(verdict.believed and "earlier" not in verdict.note for verdict in found)


def test_clocks_half_a_second_apart_are_named() -> None:
    nodes = probed().nodes
    found = line("clocks", probed(nodes=(*nodes[:3], replace(nodes[3], clock_offset_s=-2.0))))

    assert (found.word, found.note) == ("broken", "n4 by 2 s, against n1")


def test_a_filesystem_that_few_nodes_do_not_fill_is_not_accused() -> None:
    found = line("filesystems.scratch.write", probed(files={"write_bytes_per_s": 3e9}))

    assert found.word == "slow"
    assert "--nodes more" in found.note


def test_a_run_beside_all_filesystems_of_the_profile_says_so() -> None:
    assert "none of the profile's filesystems" in line("filesystems", probed(filesystem=None)).note


def test_gpus_are_held_against_what_large_matmuls_reach_on_that_model() -> None:
    gpus = profile(nodes={"cpu": {"cores": 8, "gpus": {"model": "A100-40GB", "count": 4}}})
    nodes = tuple(replace(node, gpu_flops_per_s=100e12) for node in probed().nodes)

    found = line("nodes.cpu.gpus.flops", probed(nodes=nodes), gpus)

    assert (found.measured, found.stated, found.word) == ("100 TFLOP/s", "271 TFLOP/s", "slow")


def test_what_a_probe_found_is_read_as_it_was_written_and_damage_is_named(tmp_path: Path) -> None:
    run, found = Run(tmp_path), probed(binding=(("n1", "0-3"),))
    write_json(run.probe_json, found.to_json())

    assert read_probed(run) == found

    write_json(run.probe_json, {"nodes": []})
    with pytest.raises(HpcllmError, match="probe.json: damaged"):
        read_probed(run)
