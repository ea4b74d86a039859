"""Writes scikit-learn's handwritten digits to a file for the examples: `export_digits.py PATH`.

1797 rows of 65 float32: 64 pixels in [0, 1], and the digit.
"""

import sys

import numpy as np
from sklearn.datasets import load_digits

images, labels = load_digits(return_X_y=True)
rows = np.column_stack([images / 16, labels]).astype(np.float32)
rows.tofile(sys.argv[1])
