"""Quantizes a float ONNX model with onnxruntime's quantize_static and with NNCF, and writes each result's outputs on the test inputs.

usage: peers.py MODEL.onnx CALIBRATION.npz TEST.npz OUT_FOLDER

The two .npz hold one array per input, feeds along the first axis. Each setting leaves OUT_FOLDER/<setting>.npz with the model's first output
and prints one JSON line: {"setting", "seconds", "error"?}. Needs onnxruntime and onnx, and nncf for its lines.
"""
import json
import logging
import os
import sys
import tempfile
import time
import warnings

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


class Reader(CalibrationDataReader):
    def __init__(self, arrays):
        self.arrays = arrays
        self.length = len(next(iter(arrays.values())))
        self.at = 0

    def get_next(self):
        if self.at == self.length:
            return None
        i, self.at = self.at, self.at + 1
        return {k: v[i : i + 1] for k, v in self.arrays.items()}


def outputs(path, arrays):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    n = len(next(iter(arrays.values())))
    out = [session.run(None, {k: v[i : i + 1] for k, v in arrays.items()})[0] for i in range(n)]
    return np.concatenate(out)


def main():
    model, calibration, test, folder = sys.argv[1:5]
    calib, test = dict(np.load(calibration)), dict(np.load(test))
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = os.path.join(scratch, "prepared.onnx")
        try:
            quant_pre_process(model, prepared, skip_symbolic_shape=True)
        except Exception:
            prepared = model

        def static(method, **extra):
            def run(path):
                quantize_static(
                    prepared, path, Reader(calib), quant_format=QuantFormat.QDQ, calibrate_method=method,
                    activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, per_channel=True,
                    extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, **extra},
                )
            return run

        def nncf(preset=None, **extra):
            def run(path):
                import nncf as library

                if preset == "transformer":
                    extra["model_type"] = library.ModelType.TRANSFORMER
                n = len(next(iter(calib.values())))
                feeds = [{k: v[i : i + 1] for k, v in calib.items()} for i in range(n)]
                done = library.quantize(onnx.load(prepared), library.Dataset(feeds), subset_size=n, **extra)
                onnx.save(done, path)
            return run

        settings = {
            "ort-minmax": static(CalibrationMethod.MinMax),
            "ort-entropy": static(CalibrationMethod.Entropy),
            "ort-percentile": static(CalibrationMethod.Percentile),
            "nncf": nncf(),
            "nncf-transformer": nncf("transformer"),
        }
        np.savez(os.path.join(folder, "fp32.npz"), y=outputs(model, test))
        for name, run in settings.items():
            path, begin, line = os.path.join(scratch, f"{name}.onnx"), time.time(), {"setting": name}
            try:
                run(path)
                np.savez(os.path.join(folder, f"{name}.npz"), y=outputs(path, test))
            except BaseException as error:  # a peer that fails is a line of the table
                line["error"] = f"{type(error).__name__}: {error}"[:300]
            line["seconds"] = round(time.time() - begin, 2)
            print(json.dumps(line), flush=True)


main()
