"""Ids for synthetic inputs must stay inside the tables they look up."""

import numpy as np
from graphs import model

from comq_onnx.graph.io import load
from comq_onnx.graph.vocabulary import vocabulary


def test_the_smallest_table_an_input_reads_bounds_its_ids() -> None:
    text = """g (int64[B,S] ids, int64[B,S] kind, float[B,S] x) => (float[B,S,4] y) {
      c = Cast<to=6>(ids)
      a = Gather(words, c)
      b = Gather(small, ids)
      t = Gather(kinds, kind)
      ab = Add(a, b)
      y = Add(ab, t)
    }"""
    tables = {
        name: np.zeros((size, 4), np.float32) for name, size in (("words", 100), ("small", 60), ("kinds", 2))
    }
    assert vocabulary(load(model(text, **tables))) == {"ids": 60, "kind": 2}


def test_an_index_that_is_computed_bounds_nothing() -> None:
    text = "g (float[B,8] x) => (float[B,4] y) { i = ArgMax<axis=1,keepdims=0>(x) y = Gather(t, i) }"
    assert vocabulary(load(model(text, t=np.zeros((8, 4), np.float32)))) == {}
