"""Size of MiniLM at int4, embeddings float and int8, against its float file. Codes do not change a size: rtn.

python tools/bench_size.py --cache build/zoo
"""

import argparse
import tempfile
from pathlib import Path

import minilm

from comq_onnx import Recipe, quantize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cache", type=Path, default=Path("build/zoo"), help="folder for the exported models"
    )
    cache = parser.parse_args().cache
    samples = minilm.feeds(minilm.split()[0][:4])
    for dynamo in (False, True):
        for embeddings in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                recipe = Recipe(solver="rtn", quantize_embeddings=embeddings)
                report = quantize(minilm.export(cache, dynamo), Path(folder) / "q.onnx", samples, recipe)
            share = report.bytes_after / report.bytes_before
            print(f"dynamo {dynamo}, embeddings {'int8' if embeddings else 'float'}: {share:.2f}x")


if __name__ == "__main__":
    main()
