import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model = onnxruntime.InferenceSession("model.onnx")
for path in sys.argv[1:]:
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    white = Image.new("RGBA", photo.size, "white")
    image = np.asarray(Image.alpha_composite(white, photo).convert("RGB"))
    print(path, *model.run(["probabilities"], {"image": image})[0][0])
