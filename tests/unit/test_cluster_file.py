"""Each mistake in a cluster file is one line: where, what was found, what was expected."""

import copy
import functools
import json
import operator
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


@pytest.fixture(autouse=True)
def _token(tmp_path, monkeypatch):
    """Here `ray get-auth-token --generate` has run."""
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(SHIPPED.parent)


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
    ("", "head_node_type", ["head"], r"head_node_type: found \['head'\], expected one of head, decode"),
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
    ("docker", "image", "rayproject/ray:latest-py311-cu128", rf"names no version of Ray.*take rayproject/ray:{RAY}-"),
    ("docker", "image", "rayproject/ray-ml:nightly-py311-gpu", "names no version of Ray"),
    ("docker", "image", "docker.io/rayproject/ray", "names no version of Ray"),
    ("docker", "image", f"docker.io/rayproject/ray:{RAY}-py311", "has no CUDA"),
    # limits, sizes and labels
    ("available_node_types.gpu", "min_workers", 17, r"gpu\.min_workers: found 17, above its max_workers \(16\)"),
    ("", "max_workers", -1, "refused by Ray|by Ray's schema"),
    ("available_node_types.gpu", "resources", {"GPU": "one"}, "by Ray's schema"),
    ("available_node_types.decode", "labels", {"role": "decod"}, r"labels\.role: found 'decod'.*did you mean 'decode'"),
    ("available_node_types.decode", "labels", {"rol": "decode"}, "did you mean 'role'"),
    ("available_node_types.gpu", "labels", {"role": "decode"}, r"found 'decode' on machines with GPUs \(g6\.2xl"),
    ("available_node_types.decode", "labels", {"role": "gpu"}, r"without a GPU \(c6i\.8xlarge\).*expected 'decode'"),
    ("available_node_types.gpu", "resources", {"CPU": 8, "GPU": 0}, "found 'gpu' on machines without a GPU"),
    ("available_node_types.gpu", "resources", {"gpu": 1}, "found 'gpu', which Ray takes for .* did you mean 'GPU'"),
    ("available_node_types.decode", "resources", {"CPUs": 8}, "found 'CPUs', .* did you mean 'CPU'"),
    ("available_node_types.gpu", "resources", {"CPU": 800}, r"CPU: found 800, and g6\.2xlarge has 8"),
    ("available_node_types.gpu", "resources", {"GPU": 8}, r"GPU: found 8, and g6\.2xlarge has 1"),
    # what is run and copied
    ("", "head_start_ray_commands", ["ray start --head --dashboard-host=0.0.0.0 --autoscaling-config=x"],
     r"--dashboard-host=0\.0\.0\.0, which opens.*127\.0\.0\.1"),
    ("", "head_start_ray_commands", ["ray start --head --dashboard-host '::' --autoscaling-config=x"], "host=::, "),
    ("", "head_start_ray_commands", ["ray stop; ray start --head --dashboard-host=127.0.0.1"],
     "without --autoscaling-config, so that no worker"),
    ("", "file_mounts", {"/data": "~/not/there"}, r"file_mounts\./data: there is no ~/not/there on this machine; put"),
    ("", "file_mounts", {"/data": "not/there"}, r"there is no not/there on this machine \(from /"),
]  # fmt: skip


def _at(cluster, where):
    """What is found at a place that is written with dots."""
    return functools.reduce(operator.getitem, filter(None, where.split(".")), cluster)


@pytest.mark.parametrize(("where", "key", "value", "told"), MISTAKES)
def test_a_mistake_is_found(cluster, where, key, value, told):
    _at(cluster, where)[key] = value
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
        ("provider", "region", "provider.region: found '', expected the name of one"),
        ("", "head_node_type", "head_node_type: found None"),
        (
            "",
            "head_start_ray_commands",
            "head_start_ray_commands: missing; those that Ray takes then open the dashboard",
        ),
    ],
)
def test_what_is_missing_is_found(cluster, where, key, told):
    del _at(cluster, where)[key]
    assert any(told in problem for problem in find_problems(cluster)), find_problems(cluster)


def test_a_token_that_was_not_made_yet_is_told(cluster, tmp_path):
    (tmp_path / ".ray" / "auth_token").unlink()
    [problem] = find_problems(cluster)
    assert re.search(r"there is no ~/\.ray/auth_token .* `ray get-auth-token --generate` writes it", problem)


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("docker", "image", "me/ray:latest"),
        ("docker", "image", "rayproject/ray@sha256:0123"),
        ("available_node_types.gpu", "resources", {"CPU": 4, "lamps": 2, "accelerator_type:L4": 1}),
        ("available_node_types.gpu", "min_workers", 16),
        ("", "head_start_ray_commands", ["ray stop", "bash start_head.sh", "ray start --address=x"]),
        ("", "file_mounts", {}),
    ],
)
def test_what_is_no_mistake(cluster, where, key, value):
    _at(cluster, where)[key] = value
    assert find_problems(cluster) == []


def test_machines_with_gpus_may_be_said_to_decode_alone(cluster):
    node = cluster["available_node_types"]["gpu"]
    node["labels"], node["resources"] = {"role": "decode"}, {"CPU": 8, "GPU": 0}
    assert find_problems(cluster) == []


@pytest.mark.parametrize(
    ("where", "key", "value", "told"),
    [
        ("", "available_node_types", 1, "available_node_types: expected a mapping"),
        ("", "available_node_types", {1: {}}, "found the name 1, expected text; put it in quotes"),
        ("", "docker", ["x"], "docker: found ['x'], expected a mapping"),
        ("docker", "image", "", "Must provide a container & image name"),
        ("available_node_types.decode", "docker", "x", "decode.docker: found 'x', expected a mapping"),
        (
            "provider",
            "region",
            ["us-west-2"],
            "provider.region: found ['us-west-2'], expected the name of one",
        ),
        ("", "file_mounts", {"/data": ["a"]}, "file_mounts./data: found ['a'], expected a place"),
        ("", "file_mounts", {"/data": "~nobody-of-this-name/x"}, "file_mounts./data: there is no ~nobody"),
        ("available_node_types.gpu", "resources", {"GPU": "one", 1: 1}, "refused by Ray"),
    ],
)
def test_nothing_that_stands_there_breaks_the_check(cluster, where, key, value, told):
    _at(cluster, where)[key] = value
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
    assert instance_resources(name) == {"CPU": cpus, "GPU": gpus}


@pytest.mark.parametrize("name", ["g7e.2xlarge", "p6-b200.48xlarge", "u-6tb1.metal", "", "x"])
def test_types_whose_name_does_not_say_their_size(name):
    assert instance_resources(name) == {}


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
