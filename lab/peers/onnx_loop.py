"""What somebody writes with a bundle and three packages: decode, predict, write a line of CSV, file by file.

python lab/peers/onnx_loop.py MODEL.onnx FOLDER OUT.csv [--threads 1]
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("folder", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--threads", type=int, default=1)
asked = parser.parse_args()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = asked.threads
model = onnxruntime.InferenceSession(asked.model, options, providers=["CPUExecutionProvider"])
with asked.out.open("w", newline="") as file:
    writer = csv.writer(file)
    for path in sorted(path for path in asked.folder.rglob("*") if path.is_file()):
        photo = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        writer.writerow([path, *model.run(["probabilities"], {"image": photo})[0][0]])
