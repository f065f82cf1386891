"""Random blocks of the GGUF formats that we read, with what the `gguf` package makes of them.

Writes fixtures/numeric/ggml_blocks.json: for each format 256 columns as hexadecimal bytes and as f32 values.
Run with: pip install gguf numpy; python reference/make_ggml_blocks.py
"""

import json
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize

FORMATS = ["Q4_0", "IQ4_NL", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "MXFP4", "NVFP4"]
# Where a block keeps its f16 numbers; everything else may be any byte.
HALVES = {"Q4_0": [0], "IQ4_NL": [0], "IQ4_XS": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "Q8_0": [0]}
COLUMNS = 256


def main() -> None:
    rng = np.random.default_rng(7)
    out = {}
    for name in FORMATS:
        kind = gguf.GGMLQuantizationType[name]
        columns, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (COLUMNS // columns, size), dtype=np.uint8)
        for at in HALVES.get(name, []):
            halves = rng.normal(0, 0.1, len(blocks)).astype("<f2")
            blocks[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
        if name == "MXFP4":
            blocks[:, 0] = rng.integers(100, 140, len(blocks))
        if name == "NVFP4":
            blocks[:, :4] = rng.integers(0, 127, (len(blocks), 4))
        values = dequantize(blocks.reshape(1, -1), kind).reshape(-1)
        out[name] = {"bytes": blocks.tobytes().hex(), "values": [float(v) for v in values]}
    path = Path(__file__).parent.parent / "fixtures/numeric/ggml_blocks.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
