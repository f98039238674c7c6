# SPDX-License-Identifier: Apache-2.0
"""A server is told of all models and of no more; what a user changed stays; a model is warm before it is ready."""
from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from google.protobuf import text_format

from sr_keras.client import ClientOptions
from sr_keras.formats import saved_model
from sr_keras.formats.saved_model import BATCH_SIZES, WARMUP_FILE, write_serving_files, write_warmup
from sr_keras.templates import render

log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2",
                              reason="tensorflow-serving-api is not installed: pip install '.[serving]'")


@pytest.fixture
def models(tmp_path) -> Path:
    """A folder of models of which only the graph's file is there, and of what is no model."""
    for name in ("demo/1", "demo/12", "a breast model/3", '"$(reboot)/1', "two\nlines/1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "saved_model.pb").touch()
    for name in ("empty", "unfinished/.7.tmp.1", "other/notes", "half/2"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "unfinished/.7.tmp.1/saved_model.pb").touch()
    (tmp_path / "README.md").touch()
    return tmp_path


def parsed(text: str):
    from tensorflow_serving.config import model_server_config_pb2
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config


def test_server_is_told_of_every_model_with_a_plain_name_and_of_nothing_else(models, capsys):
    write_serving_files(models)
    (line,) = capsys.readouterr().out.splitlines()
    assert """'"$(reboot)', 'two\\nlines'; rename them""" in line
    found = parsed((models / "models.config").read_text())
    assert [(model.name, model.base_path, model.model_platform) for model in found] == [
        ("a breast model", "/models/a breast model", "tensorflow"), ("demo", "/models/demo", "tensorflow")]
    # A picture that began with one version is finished with it.
    assert {model.model_version_policy.latest.num_versions for model in found} == {2}


def test_list_of_models_is_written_anew_and_what_a_user_changed_stays(models):
    first = write_serving_files(models)
    assert {path.name for path in first} == {"models.config", "batching_parameters.txt", "compose.yaml", "health.sh",
                                             "monitoring.config", "nginx.conf", "prometheus.yml"}
    assert all(path.read_text() for path in first)
    (models / "half/2/saved_model.pb").touch()
    (models / "compose.yaml").write_text("mine")
    (models / "health.sh").unlink()
    assert write_serving_files(models) == first
    assert [model.name for model in parsed((models / "models.config").read_text())][1:] == ["demo", "half"]
    assert (models / "compose.yaml").read_text() == "mine"
    assert (models / "health.sh").read_text() == render("health.sh")


def test_folder_without_models_is_a_server_of_none(tmp_path):
    write_serving_files(tmp_path)
    assert list(parsed((tmp_path / "models.config").read_text())) == []


def test_batches_are_of_the_sizes_that_a_server_takes(models):
    write_serving_files(models)
    text = (models / "batching_parameters.txt").read_text()
    sizes = [int(size) for size in re.findall(r"^allowed_batch_sizes: (\d+)$", text, re.M)]
    assert sizes == sorted(sizes) == list(BATCH_SIZES)
    assert f"max_batch_size {{ value: {sizes[-1]} }}" in text  # the last one must be the largest
    rest = [line for line in text.splitlines() if not line.startswith(("#", "allowed_batch_sizes: "))]
    assert all(re.fullmatch(r"[a-z_]+ \{ value: \d+ \}", line) for line in rest)
    assert len(rest) == 4


def test_compose_runs_the_official_images_on_what_is_written_beside_it(models):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: compose.yaml was not read")
    written = {path.name for path in write_serving_files(models)}
    services = yaml.safe_load((models / "compose.yaml").read_text())["services"]
    assert {name: service["image"].split(":")[0] for name, service in services.items()} == {
        **dict.fromkeys(("cpu", "gpu", "replica-1", "replica-2"), "tensorflow/serving"), "balancer": "nginx",
        "prometheus": "prom/prometheus"}
    servers = {name: service for name, service in services.items() if "tensorflow" in service["image"]}
    assert {service["image"] for service in servers.values()} == {saved_model.IMAGE, f"{saved_model.IMAGE}-gpu"}
    ports = {name: service["ports"] for name, service in services.items()}
    assert ports["replica-1"] == ports["replica-2"] == []  # only the balancer's ports are open
    assert ports["cpu"] == ports["gpu"] == ports["balancer"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    assert ports["prometheus"] == ["127.0.0.1:9090:9090"]  # nothing is open to others: no TLS, and no password
    for service in servers.values():
        assert service["volumes"] == [".:/models:ro"]
        words = " ".join([*service["command"], *service["healthcheck"]["test"]])
        assert set(re.findall(r"/models/(\S+)", words)) <= written
        assert "health.sh" in service["healthcheck"]["test"][-1]
        assert service["command"][:len(services["cpu"]["command"])] == services["cpu"]["command"]
    mounted = [volume for name in ("balancer", "prometheus") for volume in services[name]["volumes"]]
    assert {volume.split(":")[0].removeprefix("./") for volume in mounted} == {"nginx.conf", "prometheus.yml"} & written
    assert set(services["balancer"]["depends_on"]) == {"replica-1", "replica-2"}
    assert services["gpu"]["command"][-2:] == ["--enable_batching=true",
                                               "--batching_parameters_file=/models/batching_parameters.txt"]


def test_replicas_count_requests_where_prometheus_asks_for_them(models):
    write_serving_files(models)
    text = (models / "monitoring.config").read_text()
    (path,) = re.findall(r'^prometheus_config \{\n  enable: true\n  path: "(.*)"\n\}$', text, re.M)
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: prometheus.yml was not read")
    (asked,) = yaml.safe_load((models / "prometheus.yml").read_text())["scrape_configs"]
    assert asked["metrics_path"] == path
    assert asked["static_configs"] == [{"targets": ["replica-1:8501", "replica-2:8501"]}]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian's prometheus)")
def test_prometheus_accepts_its_configuration(models):
    write_serving_files(models)
    done = subprocess.run(["promtool", "check", "config", models / "prometheus.yml"], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr


def test_image_is_of_the_tensorflow_that_writes_the_models():
    assert saved_model.IMAGE.split(":")[1] == tf.__version__


@pytest.mark.parametrize(("max_pixels", "sizes"), [(2**20, [1, 2, 4, 8]), (256**2, [1]), (3 * 256**2, [1, 2])])
def test_warm_up_asks_every_signature_as_clients_do_and_nothing_that_is_refused(max_pixels, sizes, tmp_path):
    (tmp_path / "assets.extra").mkdir()
    write_warmup(tmp_path, "demo", max_pixels)
    requests = [log_pb2.PredictionLog.FromString(record).predict_log.request
                for record in tf.data.TFRecordDataset(str(tmp_path / WARMUP_FILE)).as_numpy_iterator()]
    assert {request.model_spec.name for request in requests} == {"demo"}
    assert {request.model_spec.signature_name for request in requests} == {
        "serving_default", "float", "encoded", "about"}
    shapes = [tf.make_ndarray(request.inputs["lr"]).shape for request in requests
              if request.model_spec.signature_name == "serving_default"]
    tile = ClientOptions().tile
    assert shapes == [(size, tile, tile, 3) for size in sizes]
    assert (tmp_path / WARMUP_FILE).stat().st_size < 4096


def test_without_the_extra_a_line_says_so_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "assets.extra").mkdir()
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    write_warmup(tmp_path, "demo", 2**20)
    (line,) = capsys.readouterr().out.splitlines()
    assert "pip install '.[serving]'" in line
    assert list((tmp_path / "assets.extra").iterdir()) == []
