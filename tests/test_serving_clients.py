"""The clients against a stand-in that speaks the server's protocol and runs the exported model.

TensorFlow Serving itself is not run by the tests: what is proven is the wire format and the model.
"""

import base64
import json
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import keras_meduda as km
from keras_meduda.data.io import read_image

SERVING = Path(__file__).parents[1] / "serving"
BATCHING = (SERVING / "batching.config").read_text()
LIMIT = int(re.search(r"max_batch_size { value: (\d+) }", BATCHING)[1])
pytest.importorskip("tensorflow_serving", reason="the extra `serving` is not installed")


@pytest.fixture(scope="module")
def signatures(run, tmp_path_factory):
    path = km.export(run, tmp_path_factory.mktemp("models") / "fundus" / "1")
    model = tf.saved_model.load(str(path))
    yield model.signatures


@pytest.fixture(scope="module")
def files(phantoms):
    return sorted((phantoms.parent / "images").iterdir())[:2]


@pytest.fixture(scope="module")
def rest(signatures):
    """What the REST API documents: rows of named inputs in, rows of outputs out, bytes in b64."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            signature = signatures.get(body["signature_name"])
            if self.path != "/v1/models/fundus:predict" or signature is None:
                return self.answer(404, {"error": f"Servable not found for request: {self.path}"})
            if len(body["instances"]) > LIMIT:
                return self.answer(400, {"error": f"Task size is larger than {LIMIT}"})
            columns = {
                name: tf.constant([base64.b64decode(row[name]["b64"]) for row in body["instances"]])
                for name in body["instances"][0]
            }
            (name, values), *more = signature(**columns).items()
            assert name.endswith("_bytes") and not more
            rows = [{"b64": base64.b64encode(value).decode()} for value in values.numpy()]
            self.answer(200, {"predictions": rows})

        def answer(self, code, body):
            text = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    server = HTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def rpc(signatures):
    """The gRPC service of tensorflow-serving-api, answered by the exported model."""
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            if request.model_spec.name != "fundus":
                context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.model_spec.name}")
            inputs = {k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
            response = predict_pb2.PredictResponse()
            for name, value in signatures[request.model_spec.signature_name](**inputs).items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return response

    server = grpc.server(ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"localhost:{port}"
    server.stop(None)


def masks(signatures, files):
    return [
        signatures["predict_mask"](image=tf.constant(read_image(file).array[None]))["mask"][0]
        for file in files
    ]


def many(files, folder):
    """Thrice as many files as a request may have, and one."""
    names = [folder / f"{i}.png" for i in range(3 * LIMIT + 1)]
    for i, name in enumerate(names):
        shutil.copy(files[i % len(files)], name)
    return names


def test_rest_asks_for_no_more_than_the_server_takes(rest, files, tmp_path):
    module = import_module("rest_client")
    assert module.BATCH == LIMIT
    answers = list(module.predict(many(files, tmp_path), rest, "fundus"))
    assert len(answers) == 3 * LIMIT + 1 and len(set(answers)) == len(files)
    assert answers == [answers[i % len(files)] for i in range(len(answers))]


def test_grpc_has_no_more_requests_in_flight_than_it_says(rpc, files, tmp_path):
    module, opened = import_module("grpc_client"), []
    names = (opened.append(name) or name for name in many(files, tmp_path))
    answers = module.predict(names, rpc, "fundus")
    first = next(answers)
    assert len(opened) <= module.IN_FLIGHT + 1
    answers = [first, *answers]
    assert answers == [answers[i % len(files)] for i in range(3 * LIMIT + 1)]


def test_rest(signatures, files, rest, tmp_path):
    command = [sys.executable, SERVING / "rest_client.py", *files, "--url", rest]
    done = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for file, mask in zip(files, masks(signatures, files), strict=True):
        np.testing.assert_array_equal(read_image(tmp_path / file.name).array[..., 0], mask)


def test_grpc(signatures, files, rpc):
    answers = list(import_module("grpc_client").predict(files, rpc, "fundus"))
    for answer, mask in zip(answers, masks(signatures, files), strict=True):
        np.testing.assert_array_equal(tf.io.decode_png(answer)[..., 0], mask)


@pytest.mark.parametrize("name", ["rest_client", "grpc_client"])
def test_a_mistake_ends_in_one_message(name, rest, rpc, files, tmp_path, monkeypatch):
    where = ["--url", rest] if name == "rest_client" else ["--address", rpc]
    module = import_module(name)
    out = ["--out", str(tmp_path)]
    mine, twin = tmp_path / "mine.png", tmp_path / "other" / "mine.jpg"
    shutil.copy(files[0], mine)
    for typed, message in [
        ([str(files[0]), "--model", "liver"], "answered (404|NOT_FOUND)"),
        ([str(tmp_path / "nothing.jpg")], "No such file .*nothing.jpg"),
        ([str(mine)], "mine.png would replace a file"),
        ([str(twin)], "mine.jpg: its mask .*mine.png would replace a file"),
        ([str(mine), str(twin), "--out", str(tmp_path / "o")], "mine.jpg: its mask .*o/mine.png"),
    ]:
        monkeypatch.setattr(sys, "argv", [name, *where, *out, *typed])
        with pytest.raises(SystemExit, match=message):
            module.main()
    assert mine.read_bytes() == files[0].read_bytes() and not (tmp_path / "o").exists()


def test_the_server_configuration_is_well_formed():
    """The text protocol buffers parse as the messages that the server reads them as."""
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    text = (SERVING / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    assert [model.name for model in config.model_config_list.config] == ["fundus"]
