"""Tasks of srun and mpirun become ranks of one job; what is missing is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silc import distributed, rendezvous
from silc.ports import free_port

STEP = {
    "SLURM_JOB_ID": "812",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_NTASKS": "7",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "node[09-10]",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "782761985",
}
BATCH = {
    "SLURM_JOB_ID": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "8",
    "SLURM_JOB_NODELIST": "n[1-2]",
}


def entered(variables: dict[str, str], **more: str) -> dict[str, str]:
    """What is added to an environment of these variables."""
    env = variables | more
    assert rendezvous.enter(env)
    assert variables.items() <= env.items()
    return {name: env[name] for name in rendezvous.NAMES if name in env}


def test_a_task_of_srun_is_a_rank_of_one_job():
    found = entered(STEP)
    port = found.pop("MASTER_PORT")
    assert found == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "7",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "node09",
    }
    assert 1024 < int(port) < 32768  # below the ports of outgoing connections
    ranks = [entered(STEP | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0"}) for rank in range(7)]
    assert {found["MASTER_PORT"] for found in ranks} == {port}
    others = [entered(STEP | {"SLURM_JOB_ID": str(job)})["MASTER_PORT"] for job in range(100)]
    assert len(set(others)) > 90
    assert entered(STEP | {"SLURM_STEP_ID": "1"})["MASTER_PORT"] != port


def test_a_task_of_mpirun_is_a_rank_of_one_job():
    found = entered(OPEN_MPI)
    assert found["MASTER_ADDR"] == "127.0.0.1"
    assert (found["RANK"], found["LOCAL_RANK"], found["WORLD_SIZE"], found["LOCAL_WORLD_SIZE"]) == ("1", "1", "2", "2")
    hydra = {"PMI_RANK": "1", "PMI_SIZE": "3", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "3"}
    assert entered(hydra)["MASTER_PORT"] == "29500"
    mvapich = {f"MV2_COMM_WORLD_{name}": "2" for name in ("RANK", "LOCAL_RANK")}
    mvapich |= {"MV2_COMM_WORLD_SIZE": "4", "MV2_COMM_WORLD_LOCAL_SIZE": "4"}
    assert entered(mvapich)["RANK"] == "2"


def test_mpirun_in_a_job_of_slurm_counts_its_own_ranks():
    """Its daemons are tasks of SLURM, one a machine, and hand their variables on."""
    daemon = STEP | {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}
    assert entered(daemon | OPEN_MPI)["RANK"] == "1"
    assert entered(daemon | OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0"})["RANK"] == "0"
    assert entered(STEP | {"PMI_RANK": "5", "PMI_SIZE": "7"})["LOCAL_RANK"] == "1"  # srun --mpi=pmi2


@pytest.mark.parametrize(
    "env",
    [
        {},
        BATCH,
        BATCH | {"SLURM_STEP_ID": "4294967291"},  # a batch script, as later releases number it
        BATCH | {"SLURM_STEP_ID": "4294967290"},  # the shell of salloc
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "n1"},  # salloc's shell on the login machine
        STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {name: "1" if name.endswith("SIZE") else "0" for name in OPEN_MPI if name.startswith("OMPI")},
    ],
)
def test_a_process_of_its_own_stays_one(env):
    before = dict(env)
    assert not rendezvous.enter(env)
    assert env == before


def test_what_a_launcher_or_the_user_has_set_stays():
    launcher = dict.fromkeys(("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"), "3")
    env = STEP | OPEN_MPI | launcher
    assert rendezvous.enter(env)
    assert env == STEP | OPEN_MPI | launcher
    user = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"}
    assert user.items() <= entered(STEP | user).items()
    assert user.items() <= entered(OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"} | user).items()


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (
            OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"},
            "on several machines, .*set MASTER_ADDR.* mpirun -x MASTER_ADDR=",
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "MPI_LOCALRANKID, .*set RANK, LOCAL_RANK"),
        (STEP | {"SLURM_PROCID": "7"}, "calls this task 7 of 7"),
        (STEP | {"SLURM_LOCALID": "6"}, "5 of 7 and 6 on this machine"),
        (STEP | {"SLURM_PROCID": "five"}, "SLURM_PROCID='five' is not a number"),
        ({"RANK": "0", "LOCAL_RANK": "0"}, "RANK=0 is set, but WORLD_SIZE and MASTER_ADDR and MASTER_PORT not"),
    ],
)
def test_what_is_missing_is_refused_in_words(env, said):
    with pytest.raises(ValueError, match=said):
        rendezvous.enter(dict(env))


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("n[1-3]", "n1"),
        ("a[007-010,12]b,c", "a007b"),
        ("x,y", "x"),
        ("r[2,4]n[08-09]-ib", "r2n08-ib"),
    ],
)
def test_the_first_machine_of_a_list(nodes, first):
    assert rendezvous.first_host(nodes) == first


@given(counts=st.lists(st.tuples(st.integers(1, 99), st.integers(1, 5)), min_size=1, max_size=5), data=st.data())
def test_tasks_of_each_machine(counts, data):
    text = ",".join(f"{tasks}(x{times})" if times > 1 else str(tasks) for tasks, times in counts)
    whole = [tasks for tasks, times in counts for _ in range(times)]
    node = data.draw(st.integers(0, len(whole) - 1))
    local = whole[node] - 1
    env = STEP | {"SLURM_STEP_TASKS_PER_NODE": text, "SLURM_NODEID": str(node), "SLURM_LOCALID": str(local)}
    found = entered(env | {"SLURM_PROCID": str(local + 1), "SLURM_STEP_NUM_TASKS": "1000"})
    assert found["LOCAL_WORLD_SIZE"] == str(whole[node])


@pytest.mark.parametrize(
    ("count", "visible", "local_rank", "gpu"),
    [
        (8, None, 5, 5),
        (8, "0,1,2,3,4,5,6,7", 5, 5),
        (1, "3", 5, 0),  # srun --gpus-per-task=1
        (1, "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", 1, 0),
        (1, "0,1", 1, None),  # the launcher of two ranks on a machine with one GPU
        (1, None, 1, None),
        (4, None, 4, None),
    ],
)
def test_the_number_on_the_machine_chooses_the_gpu(count, visible, local_rank, gpu, monkeypatch):
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if gpu is not None:
        assert distributed._gpu(local_rank) == gpu
        return
    with pytest.raises(ValueError, match=f"rank {local_rank} of this machine has no GPU of its own: {count} "):
        distributed._gpu(local_rank)


def test_ranks_that_do_not_come_are_waited_for_so_long_and_no_longer(monkeypatch):
    port = str(free_port())
    found = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ValueError, match=rf"rank 0 of 2 did not find all others at 127.0.0.1, port {port}, within 0.02 min"
    ):
        distributed.init(timeout_minutes=0.02)
