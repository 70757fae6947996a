"""One of onnxruntime's calibrators over feeds of an .npz: time a feed, and the process's largest size. Prints a line of JSON."""
import json
import os
import resource
import sys
import time

import numpy
import onnxruntime
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

model, name, data, method, scratch = sys.argv[1:]


class Feeds(CalibrationDataReader):
    def __init__(self, arrays):
        self.rest = iter(arrays)

    def get_next(self):
        array = next(self.rest, None)
        return None if array is None else {name: array}


with numpy.load(data) as archive:
    arrays = [archive[key] for key in archive.files]
start, cpu = time.perf_counter(), time.process_time()
calibrator = create_calibrator(
    model,
    op_types_to_calibrate=["Conv", "Gemm", "MatMul"],
    augmented_model_path=os.path.join(scratch, f"{method}.onnx"),
    calibrate_method=getattr(CalibrationMethod, method),
)
calibrator.collect_data(Feeds(arrays))
calibrator.compute_data()
wall, cpu = time.perf_counter() - start, time.process_time() - cpu
print(
    json.dumps(
        {
            "onnxruntime": onnxruntime.__version__,
            "wallMsPerFeed": round(1000 * wall / len(arrays), 1),
            "cpuMsPerFeed": round(1000 * cpu / len(arrays), 1),
            "peakMegabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
        }
    )
)
