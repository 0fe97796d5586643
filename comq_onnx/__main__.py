"""``python -m comq_onnx`` is ``comq-onnx``."""

from comq_onnx.cli import main

if __name__ == "__main__":
    main(prog_name="comq-onnx")
