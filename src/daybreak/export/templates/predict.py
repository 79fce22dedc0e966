"""What images show, by the net beside this file: python predict.py IMAGE...

Prints file, class and probability, separated by tabs. Needs numpy, Pillow and onnxruntime.
"""

import json
import sys
from pathlib import Path

import onnxruntime
from image import BadImage, DecodeSpec, decode, read_limited

HERE = Path(__file__).parent


def main(files: list[str]) -> int:
    """The exit code: 2 without files, 3 where one of them is no image."""
    sys.stdout.reconfigure(errors="backslashreplace")  # a name may hold what the terminal has no letters for
    if not files:
        print(__doc__, file=sys.stderr)
        return 2
    facts = json.loads((HERE / "bundle.json").read_text(encoding="utf-8"))
    spec, code = DecodeSpec(**facts["decode"]), 0
    session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
    for file in files:
        try:
            image_HWC = decode(read_limited(Path(file)), spec)
        except BadImage as bad:
            print(f"error: {file}: {bad}", file=sys.stderr)
            code = 3
            continue
        probability_K = session.run(["probabilities"], {"images": image_HWC[None]})[0][0]
        best = int(probability_K.argmax())
        print(f"{file}\t{facts['classes'][best]}\t{probability_K[best]:.6f}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
