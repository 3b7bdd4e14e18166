"""Run as a script: a DICOM file on standard input, its pixels on standard output as a .npy file.

GDCM is the one free decoder of lossless JPEG and JPEG-LS, and it ends its whole process on some damaged
files (found by fuzzing). So it runs in a process of its own, of bounded memory and time.
"""

import io
import os
import sys

import numpy as np
import pydicom
from pydicom.pixels import pixel_array

MAX_MEMORY = 3 * 2**30  # bytes of address space, libraries included
MAX_CPU_S = 30


def main() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits; the caller's time limit holds
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    result = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the decoder prints there
    dataset = pydicom.dcmread(io.BytesIO(sys.stdin.buffer.read()), force=True)
    array = pixel_array(dataset, decoding_plugin="gdcm")
    file = io.BytesIO()
    np.save(file, array)
    with os.fdopen(result, "wb") as stream:
        stream.write(file.getbuffer())


if __name__ == "__main__":
    main()
