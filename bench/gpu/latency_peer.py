"""What one caller of PyTorch waits for a run of a network in FP16 at batch 1, in a CUDA graph: page-locked inputs copied in, a replay, the result copied out
and waited for. ARGUMENT: NETWORK-fp16,... Prints one line of JSON: by network, microseconds of the whole, and of what the device does of it."""
import json
import sys
import time

import torch

from network_peer import captured, network


@torch.inference_mode()
def latency(name):
    model, inputs = network(name, 1)
    outputs = []
    replay = captured(lambda *x: outputs.append(model(*x)), inputs)
    # What the graph writes is what its capture made.
    result = outputs[-1]
    here = [x.cpu().pin_memory() for x in inputs]
    there = torch.empty(result.shape, dtype=result.dtype).pin_memory()

    def once():
        for x, h in zip(inputs, here):
            x.copy_(h, non_blocking=True)
        replay()
        there.copy_(result, non_blocking=True)

    whole, device = [], []
    for i in range(1500):
        start = time.perf_counter()
        once()
        torch.cuda.synchronize()
        if i >= 300:
            whole.append(1e6 * (time.perf_counter() - start))
    for _ in range(200):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        once()
        end.record()
        end.synchronize()
        device.append(1000 * begin.elapsed_time(end))
    whole.sort()
    device.sort()
    return {"p50": whole[len(whole) // 2], "p90": whole[len(whole) * 9 // 10], "device": device[len(device) // 2]}


found = {"torch": torch.__version__}
for case in sys.argv[1].split(","):
    try:
        found[case] = latency({"resnet50-fp16": "resnet50", "bert-base-fp16": "bert"}[case])
    except Exception as error:
        found[case] = {"failed": f"{type(error).__name__}: {error}"[:300]}
print(json.dumps(found), flush=True)
