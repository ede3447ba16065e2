"""Why a job waits, in Slurm's words and ours; every reason that Slurm 22.05 has for a waiting job is known."""

from __future__ import annotations

import pytest

from hpcllm.launch.tracking.states import state_in, wait_of

# The names of job_reason_string (slurm_protocol_defs.c, 22.05), without those of jobs that have ended. GRES,
# Memory and Billing stand for all resources that a limit may be of.
REASONS = """
None Priority Dependency Resources PartitionNodeLimit PartitionTimeLimit PartitionDown PartitionInactive JobHeldAdmin
BeginTime Licenses AssociationJobLimit AssociationResourceLimit AssociationTimeLimit Reservation ReqNodeNotAvail
JobHeldUser FrontEndDown SchedDefer NodeDown BadConstraints InvalidAccount InvalidQOS QOSUsageThreshold QOSJobLimit
QOSResourceLimit QOSTimeLimit Cleaning QOSNotAllowed AccountNotAllowed DependencyNeverSatisfied QOSGrpCpuLimit
QOSGrpCPUMinutesLimit QOSGrpCPURunMinutesLimit QOSGrpJobsLimit QOSGrpMemLimit QOSGrpNodeLimit QOSGrpSubmitJobsLimit
QOSGrpWallLimit QOSMaxCpuPerJobLimit QOSMaxCpuMinutesPerJobLimit QOSMaxNodePerJobLimit QOSMaxWallDurationPerJobLimit
QOSMaxCpuPerUserLimit QOSMaxJobsPerUserLimit QOSMaxNodePerUserLimit QOSMaxSubmitJobPerUserLimit QOSMinCpuNotSatisfied
AssocGrpCpuLimit AssocGrpCPUMinutesLimit AssocGrpCPURunMinutesLimit AssocGrpJobsLimit AssocGrpMemLimit
AssocGrpNodeLimit AssocGrpSubmitJobsLimit AssocGrpWallLimit AssocMaxJobsLimit AssocMaxCpuPerJobLimit
AssocMaxCpuMinutesPerJobLimit AssocMaxNodePerJobLimit AssocMaxWallDurationPerJobLimit AssocMaxSubmitJobLimit
JobHoldMaxRequeue JobArrayTaskLimit BurstBufferResources BurstBufferStageIn BurstBufferOperation PowerNotAvail
PowerReserved ReservationDeleted DeadLine PartitionConfig MaxCpuPerAccount MaxMemPerLimit
AssocGrpGRES AssocGrpGRESMinutes AssocGrpGRESRunMinutes AssocMaxGRESPerJob AssocMaxGRESPerNode
AssocMaxGRESMinutesPerJob QOSGrpGRES QOSGrpGRESMinutes QOSGrpGRESRunMinutes QOSMaxGRESPerJob QOSMaxGRESPerNode
QOSMaxGRESPerUser QOSMaxGRESMinutesPerJob QOSMinGRES QOSGrpMemoryMinutes QOSMaxMemoryPerJob QOSMinMemory QOSMinNode
AssocGrpBilling AssocGrpBillingMinutes AssocMaxBillingPerJob QOSGrpBillingRunMinutes QOSMinBilling
"""


@pytest.mark.parametrize("reason", REASONS.split())
def test_every_reason_of_slurms_is_known_and_one_that_never_ends_has_advice(reason: str) -> None:
    row = wait_of(reason)

    assert row is not None
    assert row.ends or row.advice


@pytest.mark.parametrize(
    ("reason", "ends"),
    [
        *[("Priority", True), ("Resources", True), ("Dependency", True), ("BeginTime", True)],
        *[("ReqNodeNotAvail, UnavailableNodes:n[1-2]", True), ("QOSMaxJobsPerUserLimit", True)],
        *[("AssocGrpCpuLimit", True), ("AssocGrpCPURunMinutesLimit", True), ("JobArrayTaskLimit", True)],
        *[("DependencyNeverSatisfied", False), ("PartitionTimeLimit", False), ("PartitionNodeLimit", False)],
        *[("QOSMaxWallDurationPerJobLimit", False), ("AssocMaxWallDurationPerJobLimit", False)],
        *[("AssocGrpCPUMinutesLimit", False), ("QOSMaxNodePerJobLimit", False), ("QOSMinGRES", False)],
        *[("AccountNotAllowed", False), ("QOSNotAllowed", False), ("InvalidAccount", False), ("JobHeldUser", False)],
        *[("JobHeldAdmin", False), ("JobHoldMaxRequeue", False), ("BadConstraints", False)],
        *[("launch failed requeued held", False), ("job_requeued_in_held_state", False)],
    ],
)
def test_what_passes_is_told_from_what_never_ends(reason: str, ends: bool) -> None:
    row = wait_of(reason)

    assert row is not None
    assert row.ends == ends


def test_a_reason_of_a_newer_slurm_is_no_error() -> None:
    assert wait_of("QuantumCoherenceLimit") is None


@pytest.mark.parametrize(
    ("log", "state"),
    [
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-24T10:00:00 DUE TO TIME LIMIT ***", "timeout"),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-24T10:00:00 DUE TO PREEMPTION ***", "preempted"),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-24T10:00:00 DUE TO NODE FAILURE", "node failure"),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-24T10:00:00 ***", "cancelled"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks", "out of memory"),
        ("slurmstepd: error: StepId=7.0 exceeded job memory limit (4194304 > 4096000), being killed", "out of memory"),
        ("all is well", None),
    ],
)
def test_what_slurmstepd_wrote_tells_what_happened(log: str, state: str | None) -> None:
    assert state_in(log) == state


def test_the_last_word_of_slurmstepd_counts_since_all_attempts_write_to_one_file() -> None:
    of = "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-24T10:00:00 DUE TO {} ***\n"

    assert state_in(of.format("PREEMPTION") + of.format("TIME LIMIT")) == "timeout"
