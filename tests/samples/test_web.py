"""The web sample in a real browser, and what files for browsers answer there and in Node."""

import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from browser import Browser, browser_missing, chromium, served

from comq_onnx import quantize
from comq_onnx.run.node import WEB, outputs_in_node

SAMPLES = Path(__file__).parents[2] / "samples"
COUNT = 200
LOGITS = 16
"""Images whose outputs the page keeps"""
in_a_browser = pytest.mark.skipif(bool(browser_missing()), reason=browser_missing() or "there is one")


def native(path: Path, images: np.ndarray) -> np.ndarray:
    """onnxruntime's own answer, one image at a time; what folds to floats is folded there too."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])


def deviation(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What make.py makes."""
    spec = spec_from_file_location("make", SAMPLES / "web" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("web") / "site"
    module.main(folder)
    return folder


@pytest.fixture
def with_runtime(site: Path, node_folder: Path) -> Path:
    """The site with onnxruntime-web where npm would put it."""
    place = site / "node_modules"
    if not place.exists():
        place.symlink_to((node_folder / "node_modules").resolve())
    return site


def opened(browser: Browser, address: str) -> list[dict[str, Any]]:
    """What the page at `address` found out, when it is through; its own words where it fails."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.visit(address)
    over = "return window.found || document.querySelector('#state.bad')?.textContent"
    found = WebDriverWait(browser.driver, 180).until(lambda driver: driver.execute_script(over))
    assert isinstance(found, list), found
    return found


@pytest.mark.slow
@pytest.mark.browser
@in_a_browser
@pytest.mark.node
def test_the_page_compares_float_and_quantized(with_runtime: Path, tmp_path: Path) -> None:
    with served(with_runtime) as address, chromium(tmp_path / "profile") as browser:
        found = {made["file"]: made for made in opened(browser, f"{address}/?count={COUNT}")}
        assert browser.console() == []
        rows = browser.driver.find_elements("css selector", "#files tbody tr")
        figures = browser.driver.find_elements("tag name", "figure")
        browser.shoot(tmp_path / "page.png")
    assert list(found) == ["float.onnx", "int8.onnx", "int4.onnx", "int2.onnx"]
    assert len(rows) == 4
    assert len(figures) == 12
    assert (tmp_path / "page.png").stat().st_size > 20_000
    with np.load(SAMPLES / "glyphs" / "test.npz") as test:
        images, labels = test["image"][:COUNT], test["label"][:COUNT]
    for name, made in found.items():
        path = with_runtime / name
        wanted = native(path, images)
        assert deviation(np.array(made["logits"]), wanted[:LOGITS]) < 1e-4, name
        assert made["right"] == pytest.approx(np.mean(wanted.argmax(axis=1) == labels), abs=1.5 / COUNT)
        assert made["bytes"] == path.stat().st_size
        assert 0 < made["ms"] < 1000
    assert found["int4.onnx"]["bytes"] < 0.3 * found["float.onnx"]["bytes"]
    assert found["int4.onnx"]["right"] > found["float.onnx"]["right"] - 0.04


@pytest.mark.slow
@pytest.mark.browser
@in_a_browser
def test_the_page_says_what_is_missing(site: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("index.html", "style.css", "compare.mjs"):
        shutil.copy(site / name, tmp_path / "empty")
    with (
        served(tmp_path / "empty") as address,
        chromium(tmp_path / "profile") as browser,
        pytest.raises(AssertionError, match="npm install"),
    ):
        opened(browser, address)


@pytest.mark.slow
@pytest.mark.node
@pytest.mark.parametrize(
    ("weights", "activations", "limit"),
    [("int8", "none", 1e-4), ("int4", "none", 1e-4), ("int3", "none", 1e-4), ("int2", "none", 1e-4),
     ("int4", "int8", 3e-2)],
)  # fmt: skip
def test_every_width_computes_in_webassembly_what_it_computes_here(
    weights: Any, activations: Any, limit: float, tmp_path: Path, node_folder: Path
) -> None:
    path = tmp_path / "web.onnx"
    with np.load(SAMPLES / "glyphs" / "calibration.npz") as data:
        few = {"image": data["image"][:32]}
    how: dict[str, Any] = {"weights": weights, "activations": activations, "solver": "rtn"}
    quantize(SAMPLES / "glyphs" / "glyphs.onnx", path, few, target="web", size_first=True, **how)
    with np.load(SAMPLES / "glyphs" / "test.npz") as test:
        images = test["image"][:LOGITS]
    answers = outputs_in_node(WEB, path, [{"image": image[None]} for image in images], node_folder)
    got = np.concatenate([answer["logits"] for answer in answers])
    assert deviation(got, native(path, images)) < limit
