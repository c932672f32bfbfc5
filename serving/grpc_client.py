"""Masks of image files from TensorFlow Serving over gRPC, several requests in flight.

Needs `pip install tensorflow-serving-api` (the extra `serving`).

python serving/grpc_client.py a.png b.jpg --address localhost:8500 --out masks
"""

import argparse
import sys
from collections import deque
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

IN_FLIGHT = 8  # requests that wait for an answer, which is what their files take of memory


def predict(files, address, model, timeout=60.0):
    """PNG files of the masks, one per image file, by the signature `predict_png`.

    Yields them in the order of the files; the server answers `IN_FLIGHT` requests side by side.
    The timeout, in seconds, is that of one request from when it is sent.
    """
    with grpc.insecure_channel(address) as channel:
        service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answers = deque()
        for file in files:
            if len(answers) == IN_FLIGHT:
                yield png(answers.popleft())
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model
            request.model_spec.signature_name = "predict_png"
            request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([Path(file).read_bytes()]))
            answers.append(service.Predict.future(request, timeout))
        while answers:
            yield png(answers.popleft())


def png(answer):
    """The PNG file in an answer, once it is there."""
    return answer.result().outputs["mask_bytes"].string_val[0]


def outputs(files, folder):
    """Where the mask of each file goes; ends where it would replace another file, or a mask."""
    paths = [folder / f"{Path(file).stem}.png" for file in files]
    taken = {Path(file).resolve() for file in files}
    for file, path in zip(files, paths, strict=True):
        if path.exists() or path.resolve() in taken:
            sys.exit(
                f"{file}: its mask {path} would replace a file or the mask of another; "
                "expected another --out, or files of different names."
            )
        taken.add(path.resolve())
    return paths


def main():
    """Sends a request a file and writes the masks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="PNG or JPEG files with 8 bits a channel")
    parser.add_argument("--address", default="localhost:8500")
    parser.add_argument("--model", default="fundus")
    parser.add_argument("--out", type=Path, default=Path("masks"), help="folder of the masks")
    flags = parser.parse_args()
    paths = outputs(flags.files, flags.out)
    flags.out.mkdir(parents=True, exist_ok=True)
    try:
        masks = predict(flags.files, flags.address, flags.model)
        for path, mask in zip(paths, masks, strict=True):
            path.write_bytes(mask)
    except grpc.RpcError as error:
        sys.exit(f"{flags.address} answered {error.code().name}: {error.details()}")
    except OSError as error:
        sys.exit(str(error))
    print(f"{len(flags.files)} masks in {flags.out}")


if __name__ == "__main__":
    main()
