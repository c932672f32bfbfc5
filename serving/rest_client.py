"""Masks of image files from TensorFlow Serving over REST; needs nothing but Python.

python serving/rest_client.py a.png b.jpg --url http://localhost:8501 --out masks
"""

import argparse
import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

BATCH = 8  # max_batch_size of batching.config: the server refuses a larger request


def predict(files, url, model):
    """PNG files of the masks, one per image file, by the signature `predict_png`.

    Yields them in the order of the files, `BATCH` of which make a request. A name that ends in
    `_bytes` tells the server that its values are Base64 in the JSON text.
    """
    for first in range(0, len(files), BATCH):
        instances = [
            {"image_bytes": {"b64": base64.b64encode(Path(file).read_bytes()).decode()}}
            for file in files[first : first + BATCH]
        ]
        body = json.dumps({"signature_name": "predict_png", "instances": instances}).encode()
        request = urllib.request.Request(f"{url}/v1/models/{model}:predict", body)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:
            predictions = json.load(answer)["predictions"]
        yield from (base64.b64decode(mask["b64"]) for mask in predictions)


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
    """Sends the files and writes the masks as they come."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="PNG or JPEG files with 8 bits a channel")
    parser.add_argument("--url", default="http://localhost:8501")
    parser.add_argument("--model", default="fundus")
    parser.add_argument("--out", type=Path, default=Path("masks"), help="folder of the masks")
    flags = parser.parse_args()
    paths = outputs(flags.files, flags.out)
    flags.out.mkdir(parents=True, exist_ok=True)
    try:
        masks = predict(flags.files, flags.url, flags.model)
        for path, mask in zip(paths, masks, strict=True):
            path.write_bytes(mask)
    except urllib.error.HTTPError as error:
        sys.exit(f"{flags.url} answered {error.code}: {error.read().decode(errors='replace')}")
    except OSError as error:
        sys.exit(str(error))
    print(f"{len(flags.files)} masks in {flags.out}")


if __name__ == "__main__":
    main()
