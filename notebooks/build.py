"""Runs the notebooks on phantoms and keeps their outputs in them: `make notebooks`.

Those whose code is as it was when they ran are left alone; name some to run them anyway. What a
cell wrote to stderr (progress, warnings) is not kept, and folders of this machine are not named.

python notebooks/build.py [NAME …]
"""

import base64
import hashlib
import os
import re
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import nbformat
from PIL import Image

HERE = Path(__file__).parent
LARGEST = 300_000  # bytes of a notebook with its outputs


def fingerprint(notebook) -> str:
    """Digest of the code cells, in their order; that of the last run is in the metadata."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(cells).encode()).hexdigest()[:16]


def of_last_run(notebook) -> str | None:
    """The fingerprint of the code that made the outputs."""
    return notebook.metadata.get("keras_meduda", {}).get("code")


def build(path: Path) -> None:
    """Runs a notebook and writes it with its outputs, whole or not at all.

    Raises:
        ValueError: it is larger than a repository should hold.
    """
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=3600, kernel_name="python3")
        client.execute(cwd=folder, env={**os.environ, "TMPDIR": folder})
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of day
            if cell.cell_type == "code":
                cell.outputs = [_plain(out, folder) for out in cell.outputs if _kept(out)]
    notebook.metadata["keras_meduda"] = {"code": fingerprint(notebook)}
    text = nbformat.writes(notebook) + "\n"
    if (size := len(text.encode())) > LARGEST:
        raise ValueError(f"{path}: {size:,} bytes with its outputs, expected up to {LARGEST:,}.")
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text, "utf-8")
    unfinished.replace(path)


def _kept(output):
    return output.get("name") != "stderr"


def _plain(output, folder):
    """The output without names of this machine's temporary folders, photographs as JPEG."""
    folders = re.compile(re.escape(folder) + r"(/tmp\w+)?")
    if "text" in output:
        output.text = folders.sub("FOLDER", output.text)
    data = output.get("data", {})
    for kind, value in data.items():
        if kind.startswith("text/"):
            data[kind] = folders.sub("FOLDER", value)
    if "image/png" in data:
        jpeg = BytesIO()
        png = Image.open(BytesIO(base64.b64decode(data["image/png"])))
        png.convert("RGB").save(jpeg, "JPEG", quality=80)
        if len(jpeg.getvalue()) < len(data["image/png"]) / 2:
            data["image/jpeg"] = base64.b64encode(jpeg.getvalue()).decode()
            del data["image/png"]
    return output


def main(names):
    """Builds the notebooks of these names, or those whose code has changed."""
    for path in sorted(HERE.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        changed = of_last_run(notebook) != fingerprint(notebook)
        if path.stem in names or (changed and not names):
            print(path.stem, flush=True)
            build(path)


if __name__ == "__main__":
    main(sys.argv[1:])
