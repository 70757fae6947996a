"""PyTorch's ResNet-50 and BERT-base in FP16, ready to be timed in turn with others: CASES is a list of MODEL-BATCH. Prints a line of JSON when a case is
set up; then answers each line {"case", "engine", "samples"} of its input with {"ms": [...]}, CUDA-event times of single replays or calls."""
import json
import sys
import time

import torch
import torch._inductor.config

torch.backends.cudnn.benchmark = True
torch._inductor.config.freezing = True


def network(name, batch):
    torch.manual_seed(0)
    if name == "resnet50":
        import torchvision

        last = torch.channels_last
        model = torchvision.models.resnet50(weights=None).eval().cuda().half().to(memory_format=last)
        return model, (torch.randn(batch, 3, 224, 224).cuda().half().to(memory_format=last),)
    from transformers import BertConfig, BertModel

    inner = BertModel(BertConfig(), add_pooling_layer=False).eval().cuda().half()

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, ids, mask):
            return self.inner(input_ids=ids, attention_mask=mask).last_hidden_state

    ids = torch.randint(0, 30000, (batch, 128)).cuda()
    return Hidden(), (ids, torch.ones_like(ids))


@torch.no_grad()
def compiled(model, inputs):
    # One compilation a batch: dims that may change would cost speed.
    f = torch.compile(model, mode="reduce-overhead", dynamic=False)
    for _ in range(3):
        f(*inputs)
    return lambda: f(*inputs)


@torch.inference_mode()
def captured(model, inputs):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(*inputs)
    return graph.replay


def milliseconds(f, samples):
    for _ in range(5):
        f()
    torch.cuda.synchronize()
    times = []
    for _ in range(samples):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        f()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return times


if __name__ == "__main__":
    ready = {}
    for case in sys.argv[1].split(","):
        name, batch = case.rsplit("-", 1)
        model, inputs = network(name, int(batch))
        for engine, make in (("eager in a CUDA graph", captured), ("torch.compile", compiled)):
            said = {"case": case, "engine": engine, "torch": torch.__version__}
            start = time.perf_counter()
            try:
                ready[case, engine] = make(model, inputs)
                said["setupSeconds"] = round(time.perf_counter() - start, 1)
            except Exception as error:
                said["error"] = f"{type(error).__name__}: {error}"[:300]
            print(json.dumps(said), flush=True)
    print(json.dumps({"ready": len(ready)}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        f = ready.get((asked["case"], asked["engine"]))
        with torch.no_grad():
            print(json.dumps({"ms": [] if f is None else milliseconds(f, asked["samples"])}), flush=True)
