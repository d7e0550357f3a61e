"""Each mistake in a cluster file is one line: where, what was found, what was expected."""

import copy
import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from jobs import check_cluster
from jobs.cluster_file import find_problems, find_warnings, load_cluster
from jobs.instances import instance_resources
from pipeline.config import AnswerConfig, ClusterConfig, JobConfig, PoolConfig
from pipeline.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "cluster.yaml"
RAY = version("ray")


@pytest.fixture
def cluster():
    return copy.deepcopy(load_cluster(SHIPPED))


def test_the_shipped_file_has_no_mistake(cluster):
    assert find_problems(cluster, JobConfig(), (SHIPPED.parent / "constraints.txt").read_text()) == []


MISTAKES = [
    # keys
    ("", "idle_timeout_minute", 5, r"^idle_timeout_minute: nobody reads.*did you mean 'idle_timeout_minutes'"),
    ("available_node_types.gpu", "max_worker", 3, r"gpu\.max_worker: .*did you mean 'max_workers'"),
    ("", "head_node_type", "haed", r"head_node_type: found 'haed'.*did you mean 'head'"),
    ("", "available_node_types", [], "available_node_types: expected a mapping"),
    ("", "provider", "aws", "provider: expected a mapping"),
    ("available_node_types.gpu", "labels", "role=gpu", "labels: found 'role=gpu', expected a mapping"),
    # the provider
    ("provider", "regoin", "us-west-2", r"provider\.regoin: nobody reads.*did you mean 'region'"),
    ("provider", "availability_zone", ["us-west-2a"], "is not of type 'string', by Ray's schema"),
    ("provider", "availability_zone", "us-west-2a,us-east-1b", "'us-east-1b' is not in region 'us-west-2'"),
    ("provider", "type", "awz", "refused by Ray"),
    # node_config
    ("available_node_types.gpu.node_config", "InstanceTyp", "x", r"InstanceTyp: nobody.*did you mean 'InstanceType'"),
    ("available_node_types.gpu.node_config", "InstanceType", "g6.2xlrge", r"no 'g6\.2xlrge'; did you mean 'g6"),
    ("available_node_types.gpu.node_config", "EbsOptimized", "yes", "EbsOptimized: found 'yes', expected a boolean"),
    ("available_node_types.gpu.node_config", "IamInstanceProfile", "role", "expected a mapping of Arn, Name"),
    ("available_node_types.gpu.node_config.InstanceMarketOptions", "MarketType", "spots", "did you mean 'spot'"),
    ("available_node_types.gpu.node_config", "BlockDeviceMappings", {"Ebs": {}}, "BlockDeviceMappings: .*a list"),
    (
        "available_node_types.gpu.node_config", "BlockDeviceMappings",
        [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSise": 3}}],
        r"BlockDeviceMappings\[0\]\.Ebs\.VolumeSise: .*did you mean 'VolumeSize'",
    ),
    (
        "available_node_types.gpu.node_config", "BlockDeviceMappings",
        [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": "big"}}],
        r"VolumeSize: found 'big', expected an integer",
    ),
    # commands
    ("", "setup_commands", "pip install x", "setup_commands: found 'pip install x', expected a list"),
    ("", "worker_start_ray_commands", [{"a": 1}], "worker_start_ray_commands: .*expected a list"),
    ("", "setup_commands", ["pip install 'ray[data]==2.40.0'"], "installs ray==2.40.0, here is"),
    # versions
    ("docker", "image", "rayproject/ray:2.59.0-py311-cu128", rf"holds Ray 2\.59\.0, here is {RAY}"),
    ("docker", "image", f"rayproject/ray:{RAY}-py312-cu128", "different Pythons"),
    ("docker", "image", f"rayproject/ray:{RAY}-py311", "has no CUDA, and its machines have GPUs"),
    # limits and labels
    ("available_node_types.gpu", "min_workers", 99, "refused by Ray|by Ray's schema"),
    ("available_node_types.gpu", "resources", {"GPU": "one"}, "by Ray's schema"),
    ("available_node_types.decode", "labels", {"role": "decod"}, r"labels\.role: found 'decod'.*did you mean 'decode'"),
    ("available_node_types.decode", "labels", {"rol": "decode"}, "did you mean 'role'"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "key", "value", "told"), MISTAKES)
def test_a_mistake_is_found(cluster, where, key, value, told):
    holder = cluster
    for part in filter(None, where.split(".")):
        holder = holder[part]
    holder[key] = value
    problems = find_problems(cluster)
    assert len(problems) == 1, problems
    [problem] = problems
    assert re.search(told, problem), problem


@pytest.mark.parametrize(
    ("where", "key", "told"),
    [
        ("", "max_workers", "max_workers: missing"),
        (
            "available_node_types.gpu",
            "max_workers",
            "gpu.max_workers: missing; without it one type may take all",
        ),
        ("available_node_types.gpu.node_config", "InstanceType", "gpu.node_config: no InstanceType"),
        ("provider", "region", "provider.region: missing"),
        ("", "head_node_type", "head_node_type: found None"),
    ],
)
def test_what_is_missing_is_found(cluster, where, key, told):
    holder = cluster
    for part in filter(None, where.split(".")):
        holder = holder[part]
    del holder[key]
    assert any(told in problem for problem in find_problems(cluster)), find_problems(cluster)


def test_all_mistakes_are_told_at_once(cluster):
    cluster["provider"]["regoin"] = "x"
    cluster["available_node_types"]["gpu"]["node_config"]["InstanceTyp"] = "x"
    del cluster["max_workers"]
    assert len(find_problems(cluster)) == 3


def test_another_ray_than_the_pinned_one(cluster):
    assert "pins ray==2.1.0" in find_problems(cluster, pins="pyarrow==1\nray==2.1.0\n")[0]


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        ({"num_gpus": 2.0}, "needs 2 GPUs on one machine"),
        ({"min_size": 25, "max_size": 25}, "asks for 25 seats of 1 GPU"),
        ({"device": "cpu", "num_cpus": 64.0}, "needs 64 CPUs on one machine"),
    ],
)
def test_pools_that_never_fit_the_node_types(cluster, pool, told):
    [problem] = find_problems(cluster, JobConfig(answer=AnswerConfig(model="any", pool=PoolConfig(**pool))))
    assert told in problem


def test_a_recipe_for_other_machines(cluster):
    job = JobConfig(cluster=ClusterConfig(sized_for=("decode:2 CPU", "gpu:8 CPU, 8 GPU")))
    [problem] = find_problems(cluster, job)
    assert "sized for machines of 8 CPU, 8 GPU (gpu)" in problem
    assert "up to 16 x gpu (8 CPU, 1 GPU" in problem


def test_machines_of_unknown_size_are_to_be_written_down(cluster):
    cluster["available_node_types"]["gpu"]["node_config"]["InstanceType"] = "u-6tb1.metal"
    [problem] = find_problems(cluster, JobConfig())
    assert "available_node_types.gpu: how many CPUs" in problem
    cluster["available_node_types"]["gpu"]["resources"] = {"CPU": 8, "GPU": 1}
    assert find_problems(cluster, JobConfig()) == []


@pytest.mark.parametrize(
    ("name", "cpus", "gpus"),
    [("c6i.8xlarge", 32, 0), ("g6.2xlarge", 8, 1), ("g5.48xlarge", 192, 8), ("p5.48xlarge", 192, 8),
     ("m6i.xlarge", 4, 0), ("c7g.large", 2, 0), ("g4dn.12xlarge", 48, 4), ("t3.medium", 2, 0)],
)  # fmt: skip
def test_sizes_of_instance_types(name, cpus, gpus):
    assert instance_resources(name) == ({"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus})


def test_the_command_prints_each_mistake_and_ends_with_2(cluster, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(cluster))
    assert check_cluster.main([str(file), "--recipe", "world"]) == 0
    said = capsys.readouterr()
    assert len(json.loads(said.out)["warnings"]) == said.err.count("mine.yaml: warning: ") == 2
    cluster["provider"]["regoin"] = "x"
    file.write_text(yaml.safe_dump(cluster))
    assert check_cluster.main([str(file)]) == 2
    said = capsys.readouterr()
    assert "provider.regoin" in said.err
    assert len(json.loads(said.out.strip().splitlines()[-1])["problems"]) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--answer.pool.num-gpus 2", "an answering actor needs 2 GPUs on one machine"),
        (
            "--answer.pool.min-size 25 --answer.pool.max-size 25",
            "--answer.pool.min-size asks for 25 seats of 1 GPU",
        ),
        ("--recipe world --score.pool.num-gpus 4", "a scoring actor needs 4 GPUs on one machine"),
    ],
)
def test_pools_are_asked_for_with_the_options_of_answer(options, told, capsys):
    assert check_cluster.main([*options.split(), str(SHIPPED)]) == 2
    [problem] = json.loads(capsys.readouterr().out)["problems"]
    assert told in problem


def test_an_option_of_answer_that_is_out_of_range_is_refused_by_its_name():
    with pytest.raises(ConfigError, match=r"^--answer\.pool\.num-gpus 0: expected above 0$"):
        check_cluster.main([str(SHIPPED), "--answer.pool.num-gpus", "0"])


def test_the_shipped_file_warns_of_what_an_account_must_have_and_the_region_gives(cluster):
    pass_role, no_image = find_warnings(cluster)
    assert "(decode, gpu, decode-on-demand, gpu-on-demand): name an IamInstanceProfile" in pass_role
    assert "iam:PassRole" in pass_role
    assert "(gpu, gpu-on-demand): GPU type without ImageId" in no_image


def test_a_file_that_is_filled_in_warns_of_nothing(cluster):
    for node in cluster["available_node_types"].values():
        node["node_config"].pop("IamInstanceProfile", None)
        node["node_config"]["ImageId"] = "ami-0123456789abcdef0"
    assert find_problems(cluster) == find_warnings(cluster) == []
    cluster["available_node_types"]["gpu"]["node_config"]["ImageId"] = "latest_dlami"
    assert "(gpu): GPU type without ImageId" in find_warnings(cluster)[0]
    cluster["provider"] = {"type": "gcp"}
    assert find_warnings(cluster) == []


def test_ray_makes_no_profile_where_the_head_names_one(cluster):
    assert "IamInstanceProfile" not in cluster["available_node_types"]["head"]["node_config"]
    cluster["available_node_types"]["head"]["node_config"]["IamInstanceProfile"] = {"Name": "mine"}
    assert (
        "available_node_types.head: names an IamInstanceProfile; then Ray makes none"
        in find_warnings(cluster)[0]
    )


@pytest.mark.parametrize("text", ["a: [", "- a list", "\xff"])
def test_a_file_that_is_none(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"mine\.yaml: "):
        load_cluster(file)
