"""The size of DDP's buckets: what holds on any network."""

from math import isclose

from described import cluster, gpt2
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hpcllm.plan.buckets import DEFAULT_BUCKET_BYTES, FEWEST, SMALLEST_BYTES, bucket_bytes
from hpcllm.plan.plan import Plan
from hpcllm.plan.search import search

latencies = st.floats(1e-7, 1e-2)
rates = st.floats(1e7, 1e12)
ranks = st.integers(2, 4096)
models = st.floats(1e6, 1e12)


def exposed_s(latency_s: float, rate: float, n: int, model: float, bucket: float) -> float:
    """The latencies of all buckets and the transfer of the last."""
    return model / bucket * 2 * (n - 1) * latency_s + 2 * (n - 1) / n * bucket / rate


@settings(deadline=None)
@given(latencies, rates, ranks, models)
def test_it_stays_within_its_bounds_in_whole_mebibytes(latency_s: float, rate: float, n: int, model: float):
    bucket = bucket_bytes(latency_s, rate, n, model)

    assert bucket % 2**20 == 0
    assert SMALLEST_BYTES <= bucket <= max(SMALLEST_BYTES, model / FEWEST + 2**19)


@settings(deadline=None)
@given(latencies, rates, ranks, models, st.floats(0.05, 20))
def test_no_other_size_exposes_less(latency_s: float, rate: float, n: int, model: float, times: float):
    bucket = bucket_bytes(latency_s, rate, n, model)
    assume(16 * SMALLEST_BYTES < bucket < model / FEWEST - 2**20)  # where neither bound nor rounding decides

    best, other = (exposed_s(latency_s, rate, n, model, size) for size in (bucket, times * bucket))

    assert best <= other * 1.001


@settings(deadline=None)
@given(latencies, rates, ranks, models)
def test_a_transfer_is_as_many_latencies_as_there_are_buckets(latency_s: float, rate: float, n: int, model: float):
    bucket = bucket_bytes(latency_s, rate, n, model)
    assume(16 * SMALLEST_BYTES < bucket < model / FEWEST - 2**20)

    transfer_s, latencies_s = 2 * (n - 1) / n * bucket / rate, 2 * (n - 1) * latency_s

    assert isclose(transfer_s / latencies_s, model / bucket, rel_tol=0.07)


@settings(deadline=None)
@given(latencies, rates, ranks, models, st.floats(1, 100), st.sampled_from(range(4)))
def test_more_of_anything_never_makes_it_smaller(latency_s, rate, n, model, times: float, which: int):
    given = [latency_s, rate, n, model]
    more = [
        round(value * times) if i == which == 2 else value * times if i == which else value
        for i, value in enumerate(given)
    ]

    assert bucket_bytes(*more) >= bucket_bytes(*given)


def chosen(plan: Plan) -> str:
    figure = next(figure for figure in plan.figures if figure.name == "bucket_bytes")
    assert figure.value == plan.bucket_bytes
    return figure.formula


def test_a_plan_takes_it_from_the_fabric_and_says_how():
    # √(4·124,439,808 · 4 nodes · 2 µs · 0.8 · 4 rails · 25 GB/s) = 17.8 MB
    plan = search(cluster({}), gpt2())

    assert plan.bucket_bytes == 17 * 2**20
    assert chosen(plan).startswith("√(S · n · α")


def test_what_was_measured_comes_before_what_is_stated():
    measured = {"date": "2026-11-24", "world_size": 8, "fabric": {"rate": "25GB/s", "latency": "8us"}}

    assert search(cluster({"measured": measured}), gpt2()).bucket_bytes > search(cluster(), gpt2()).bucket_bytes


def test_one_node_and_an_unknown_network_keep_what_ddp_has():
    for changes, job in (({}, {"resources.nodes": 1}), ({"fabric.latency": None}, {})):
        plan = search(cluster(changes), gpt2(job))

        assert plan.bucket_bytes == DEFAULT_BUCKET_BYTES
        assert chosen(plan) == "DDP's own"


def test_half_as_many_bytes_on_the_wire_allow_larger_buckets():
    compressed = search(cluster({}), gpt2({"train.gradient_compression": "bf16"}))

    assert compressed.bucket_bytes > search(cluster({}), gpt2()).bucket_bytes
