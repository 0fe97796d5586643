"""Trains the sample network on drawn characters and writes it with its calibration and test images.

    pip install -e ".[samples,cpu]"
    python tools/make_samples.py --out samples/glyphs

One thread and fixed seeds: the same torch, Pillow and fonts on the same processor give the same files again.
`glyphs.py` names the Debian packages of the fonts.
"""

import argparse
from pathlib import Path

import numpy as np
from glyphs import SEEDS, TEST_FAMILIES, TRAINING_FAMILIES, Options, draw_masks, expose, load_faces

FONT_FOLDERS = (Path("/usr/share/fonts/truetype"), Path("/usr/share/fonts/opentype"))


def make(out: Path, folders: tuple[Path, ...], options: Options) -> None:
    """Train, write glyphs.onnx, calibration.npz and test.npz into `out`, and print the scores."""
    import torch
    from glyph_network import export, round_weights, score, train

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    out.mkdir(parents=True, exist_ok=True)
    limits = options.distortion
    seen, unseen = load_faces(folders, TRAINING_FAMILIES), load_faces(folders, TEST_FAMILIES)
    masks, _ = draw_masks(seen, options.calibration, SEEDS["calibration"], limits)
    np.savez_compressed(out / "calibration.npz", image=expose(masks, SEEDS["calibration"], limits))
    masks, labels = draw_masks(unseen, options.test, SEEDS["test"], limits)
    images = expose(masks, SEEDS["test"], limits)
    np.savez_compressed(out / "test.npz", image=images, label=labels)
    network = train(options, *draw_masks(seen, options.images, SEEDS["training"], limits))
    export(network, out / "glyphs.onnx")
    print(f"{'float':>12} {score(network, images, labels):6.1f} %")
    for bits in (8, 4, 3):
        print(f"{f'rounded W{bits}':>12} {score(round_weights(network, bits), images, labels):6.1f} %")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("samples/glyphs"))
    parser.add_argument("--fonts", type=Path, nargs="+", default=FONT_FOLDERS, help="folders to search")
    parser.add_argument("--epochs", type=int, default=Options.epochs)
    parser.add_argument("--images", type=int, default=Options.images, help="training images")
    arguments = parser.parse_args()
    options = Options(epochs=arguments.epochs, images=arguments.images)
    make(arguments.out, tuple(arguments.fonts), options)


if __name__ == "__main__":
    main()
