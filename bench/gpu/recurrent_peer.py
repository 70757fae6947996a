"""PyTorch's recurrent layers (cuDNN) in a CUDA graph: the cases as JSON on standard input, {"cudnnUs": median} for each on standard output."""
import json
import statistics
import sys

import torch

torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
times = []
for case in json.load(sys.stdin):
    try:
        dtype = torch.float16 if case["precision"] == "fp16" else torch.float32
        layer = getattr(torch.nn, case["op"])(case["input"], case["hidden"], bidirectional=case["directions"] == 2).cuda().to(dtype).eval()
        layer.flatten_parameters()
        x = torch.rand(case["steps"], case["batch"], case["input"], device="cuda", dtype=dtype) * 2 - 1
        with torch.no_grad():
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                for _ in range(5):
                    layer(x)
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                layer(x)
            samples = []
            for i in range(60):
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                graph.replay()
                end.record()
                end.synchronize()
                if i >= 10:
                    samples.append(start.elapsed_time(end) * 1000)
        times.append({"cudnnUs": float(f"{statistics.median(samples):.4g}")})
    except Exception as error:  # a case that cuDNN or the capture refuses is a row without a time
        times.append({"cudnnFailed": str(error)[:200]})
print(json.dumps(times))
