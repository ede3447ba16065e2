"""Measured against stated: generous, and every slow node and wrong thing by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from probed_clusters import HOSTS, probed, profile

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
