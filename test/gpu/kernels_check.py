#!/usr/bin/env python3
"""Runs the kernels that scripts/gpu-kernels.mjs dumped on an NVIDIA GPU: compiles them with NVRTC, compares with PyTorch in FP64 or FP32, times them in a CUDA graph.

  python3 test/gpu/kernels_check.py DUMP [--out results.jsonl] [--time 1] [--peers 1] [--budget SECONDS]

One JSON line per kernel: case, tactic, worst error over the largest reference value, whether it holds the tolerance of its precision, whether bytes around the
output stayed untouched, microseconds (median of graph replays over rotating buffers), TFLOP/s, the floor (bytes over bandwidth or operations over the peak rate).
A kernel that faults or hangs ends the process with status 99 after naming itself in the output: run again with the same --out to go on."""
import argparse, ctypes, glob, hashlib, json, math, os, sys, tempfile, threading, time
from concurrent.futures import ProcessPoolExecutor

TOLERANCE = {"f16": 2e-3, "bf16": 1.6e-2, "tf32": 2e-3, "f32": 1e-5, "s8": 0.0}
PEAK = {"f16": 989e12, "bf16": 989e12, "tf32": 494e12, "f32": 66.9e12, "s8": 1979e12}
BANDWIDTH = 4.8e12
SIZE = {"f16": 2, "bf16": 2, "tf32": 4, "f32": 4, "s8": 1}


def load_nvrtc():
    folders = [os.environ.get("PARTITA_NVRTC_DIR", "")]
    for p in sys.path:
        folders += [p + "/nvidia/cu13/lib", p + "/nvidia/cuda_nvrtc/lib"]
    for folder in folders + ["/usr/local/cuda/lib64"]:
        builtins = [f for f in sorted(glob.glob(folder + "/libnvrtc-builtins.so*")) if ".alt." not in f]
        library = [f for f in sorted(glob.glob(folder + "/libnvrtc.so*")) if ".alt." not in f]
        if builtins and library:
            ctypes.CDLL(builtins[-1], mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(library[-1])
    raise SystemExit("no NVRTC found: set PARTITA_NVRTC_DIR")


def compile_one(job):
    path, arch, cache = job
    source = open(path).read()
    target = os.path.join(cache, hashlib.sha256((arch + source).encode()).hexdigest() + ".cubin")
    if os.path.exists(target):
        return target, ""
    n = load_nvrtc()
    p, size = ctypes.c_void_p(), ctypes.c_size_t()
    n.nvrtcCreateProgram(ctypes.byref(p), source.encode(), os.path.basename(path).encode(), 0, None, None)
    options = (ctypes.c_char_p * 2)(b"--gpu-architecture=" + arch.encode(), b"--std=c++17")
    rc = n.nvrtcCompileProgram(p, 2, options)
    n.nvrtcGetProgramLogSize(p, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    n.nvrtcGetProgramLog(p, log)
    if rc != 0:
        return None, log.value.decode()
    n.nvrtcGetCUBINSize(p, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    n.nvrtcGetCUBIN(p, cubin)
    n.nvrtcDestroyProgram(ctypes.byref(p))
    open(target + ".tmp%d" % os.getpid(), "wb").write(cubin.raw)
    os.replace(target + ".tmp%d" % os.getpid(), target)
    return target, ""


class Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_uint * 16)]


class Config(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint) for n in ("gx", "gy", "gz", "bx", "by", "bz", "shared")] + [
        ("stream", ctypes.c_void_p), ("attrs", ctypes.POINTER(Attribute)), ("count", ctypes.c_uint)]


_cuda = None


def cuda():
    global _cuda
    if _cuda is None:
        _cuda = ctypes.CDLL("libcuda.so.1")
    return _cuda


def check(rc, call):
    if rc != 0:
        text = ctypes.c_char_p()
        cuda().cuGetErrorString(rc, ctypes.byref(text))
        raise RuntimeError("%s: %s" % (call, text.value.decode()))


class Kernel:
    def __init__(self, cubin, record):
        self.module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        check(cuda().cuModuleLoadData(ctypes.byref(self.module), open(cubin, "rb").read()), "cuModuleLoadData")
        check(cuda().cuModuleGetFunction(ctypes.byref(self.function), self.module, record["name"].encode()), "cuModuleGetFunction")
        if record["shared"] > 48 * 1024:
            check(cuda().cuFuncSetAttribute(self.function, 8, record["shared"]), "cuFuncSetAttribute")
        value = ctypes.c_int()
        self.info = {}
        for key, attribute in (("registers", 4), ("spill", 3)):
            cuda().cuFuncGetAttribute(ctypes.byref(value), attribute, self.function)
            self.info[key] = value.value
        self.attrs = (Attribute * 2)()
        self.config = Config(*record["grid"], *record["block"], record["shared"], None, self.attrs, 0)
        if record.get("cluster"):
            self.attrs[0].id = 4
            for i in range(3):
                self.attrs[0].value[i] = record["cluster"][i]
            self.config.count = 1

    def launch(self, args, stream):
        self.config.stream = stream
        check(cuda().cuLaunchKernelEx(ctypes.byref(self.config), self.function, args, None), "cuLaunchKernelEx")

    def close(self):
        cuda().cuModuleUnload(self.module)


DTYPE = {"uint8": 0, "float16": 6, "float32": 7, "bfloat16": 9}
SWIZZLE = {0: 0, 32: 1, 64: 2, 128: 3}


def tensor_map(m, address):
    """A 128-byte CUtensorMap, 64-byte aligned."""
    raw = ctypes.create_string_buffer(128 + 64)
    at = (ctypes.addressof(raw) + 63) & ~63
    rank = len(m["dims"])
    u64, u32, i32 = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int32
    dims = (u64 * rank)(*m["dims"])
    strides = (u64 * max(1, rank - 1))(*m["strides"])
    steps = (u32 * rank)(*m["elementStrides"])
    if m["mode"] == "tiled":
        box = (u32 * rank)(*m["box"])
        check(cuda().cuTensorMapEncodeTiled(ctypes.c_void_p(at), DTYPE[m["dtype"]], rank, ctypes.c_void_p(address), dims, strides, box, steps, 0,
                                            SWIZZLE[m["swizzle"]], 2, 0), "cuTensorMapEncodeTiled")
    else:
        low, high = (i32 * (rank - 2))(*m["lowerCorner"]), (i32 * (rank - 2))(*m["upperCorner"])
        check(cuda().cuTensorMapEncodeIm2col(ctypes.c_void_p(at), DTYPE[m["dtype"]], rank, ctypes.c_void_p(address), dims, strides, low, high,
                                             u32(m["box"][0]), u32(m["box"][1]), steps, 0, SWIZZLE[m["swizzle"]], 2, 0), "cuTensorMapEncodeIm2col")
    return raw, at


def span(extents, strides):
    return 1 + sum((e - 1) * s for e, s in zip(extents, strides))


class Case:
    """Buffers, reference and traffic of one problem."""

    def __init__(self, record, torch):
        self.kind, self.p, self.fused, self.torch = record["kind"], record["problem"], record["fused"], torch
        self.dtype = self.p["dtype"]
        self.type = {"f16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32, "f32": torch.float32, "s8": torch.int8}[self.dtype]
        p = self.p
        if self.kind == "gemm":
            b = math.prod(p["batch"])
            self.shape_out = (b, p["M"], p["N"])
            self.flops = 2 * b * p["M"] * p["N"] * p["K"]
            ext = lambda rows, o: (list(p["batch"]) + [rows, p["K"]], list(o.get("batchStride") or [0] * len(p["batch"])) + [o["rowStride"], o["colStride"]])
            self.views = {"a": ext(p["M"], p["a"]), "b": ext(p["N"], p["b"])}
            self.columns = p["N"]
        elif self.kind in ("conv", "depthwise"):
            d = p.get("depth") or dict(d=1, t=1, o=1)
            rows = p["n"] * d["o"] * p["p"] * p["q"]
            self.shape_out = (1, rows, p["k"])
            depth = d["t"] * p["r"] * p["s"] * p["c"] // p["groups"]
            self.flops = 2 * rows * p["k"] * depth
            x = [p["n"], d["d"], p["h"], p["w"], p["c"]]
            w = [p["k"], d["t"], p["r"], p["s"], p["c"] // p["groups"]]
            if self.kind == "depthwise":
                w = [d["t"], p["r"], p["s"], p["k"]]
            dense = lambda s: [math.prod(s[i + 1:]) for i in range(len(s))]
            self.views = {"a": (x, dense(x)), "b": (w, dense(w))}
            self.columns = p["k"]
        else:
            self.shape_out = (p["batch"], p["queries"], p["heads"], p["dimV"])
            pairs = p["queries"] * p["keys"]
            if p.get("causal"):
                off = p["causal"]["offset"]
                pairs = sum(max(0, min(p["keys"], i + off + 1)) for i in range(p["queries"]))
            self.flops = 2 * p["batch"] * p["heads"] * pairs * (p["dim"] + p["dimV"])
            v = lambda n, h, dim, s: ([p["batch"], h, n, dim], [s["batch"], s["head"], s["position"], 1])
            self.views = {"q": v(p["queries"], p["heads"], p["dim"], p["q"]), "k": v(p["keys"], p["kvHeads"], p["dim"], p["k"]),
                          "v": v(p["keys"], p["kvHeads"], p["dimV"], p["v"])}
            if p.get("mask"):
                m = p["mask"]
                self.views["mask"] = ([p["batch"], p["heads"], p["queries"], p["keys"]], [m["batch"], m["head"], m["query"], m["key"]])
        used = sum(math.prod(e for e, s in zip(*v) if s) for v in self.views.values()) * SIZE[self.dtype]
        self.bytes = used + math.prod(self.shape_out) * SIZE[self.dtype] * (2 if self.fused.get("residual") else 1)
        self.floor = max(self.flops / PEAK[self.dtype], self.bytes / BANDWIDTH) * 1e6

    def data(self, seed):
        t = self.torch
        g = t.Generator(device="cuda").manual_seed(seed)
        out = {}
        for name, (ext, strides) in self.views.items():
            n = span(ext, strides)
            if name == "mask":
                kind = self.p["mask"]["dtype"]
                if kind == "bool":
                    x = t.rand(n, device="cuda", generator=g) < 0.7
                else:
                    x = t.randn(n, device="cuda", generator=g).to({"f32": t.float32, "f16": t.float16, "bf16": t.bfloat16}[kind])
                    x[t.rand(n, device="cuda", generator=g) < 0.2] = float("-inf") if kind != "f32" else -3.0e38
            elif self.dtype == "s8":
                x = t.randint(-127, 128, (n,), device="cuda", generator=g, dtype=t.int8)
            else:
                x = t.randn(n, device="cuda", generator=g).to(self.type)
            out[name] = x
        if self.kind != "attention":
            n = self.columns
            if self.dtype == "s8":
                out["bias"] = t.randint(-2000, 2000, (n,), device="cuda", generator=g, dtype=t.int32)
                depth = self.flops / 2 / math.prod(self.shape_out)
                out["scale"] = (t.rand(n, device="cuda", generator=g) + 0.5) * (40.0 / (73 * 73 * math.sqrt(depth)))
            else:
                out["bias"] = t.randn(n, device="cuda", generator=g)
            if self.fused.get("residual"):
                shape = math.prod(self.shape_out)
                out["residual"] = t.randint(-127, 128, (shape,), device="cuda", generator=g, dtype=t.int8) if self.dtype == "s8" else t.randn(shape, device="cuda", generator=g).to(self.type)
        out["guarded"] = t.full((math.prod(self.shape_out) * SIZE[self.dtype] + 512,), 0x7B, device="cuda", dtype=t.uint8)
        out["out"] = out["guarded"][256:-256].view(self.type)
        return out

    def view(self, data, name):
        return data[name].as_strided(*self.views[name])

    def reference(self, data):
        t, p = self.torch, self.p
        heavy = self.flops > 4e10
        wide = t.float32 if heavy and self.dtype != "s8" else t.float64
        if self.kind == "gemm":
            a, b = self.view(data, "a").to(wide), self.view(data, "b").to(wide)
            acc = (a @ b.transpose(-1, -2)).reshape(self.shape_out)
        elif self.kind in ("conv", "depthwise"):
            d = p.get("depth") or dict(d=1, t=1, o=1)
            x = self.view(data, "a").permute(0, 4, 1, 2, 3)
            w = self.view(data, "b")
            w = w.permute(3, 0, 1, 2).unsqueeze(1) if self.kind == "depthwise" else w.permute(0, 4, 1, 2, 3)
            three = lambda v, f: [f] + list(v) if len(v) == 2 else list(v)
            s, dil, pad = three(p["stride"], 1), three(p["dilation"], 1), three(p["pad"], 0)
            outs, ins, taps = [d["o"], p["p"], p["q"]], [d["d"], p["h"], p["w"]], [d["t"], p["r"], p["s"]]
            end = [max(0, (outs[i] - 1) * s[i] + (taps[i] - 1) * dil[i] + 1 - ins[i] - pad[i]) for i in range(3)]
            F = t.nn.functional
            x = F.pad(x.to(wide), (pad[2], end[2], pad[1], end[1], pad[0], end[0]))
            if d["t"] == 1 and d["d"] == 1:
                y = F.conv2d(x[:, :, 0], w[:, :, 0].to(wide), None, s[1:], 0, dil[1:], p["groups"])[:, :, : p["p"], : p["q"]].unsqueeze(2)
            else:
                y = F.conv3d(x, w.to(wide), None, s, 0, dil, p["groups"])[:, :, : d["o"], : p["p"], : p["q"]]
            acc = y.permute(0, 2, 3, 4, 1).reshape(self.shape_out)
        else:
            q, k, v = (self.view(data, n).to(wide) for n in "qkv")
            rep = p["heads"] // p["kvHeads"]
            k, v = k.repeat_interleave(rep, 1), v.repeat_interleave(rep, 1)
            s = q @ k.transpose(-1, -2) * p["scale"]
            if p.get("softcap"):
                s = p["softcap"] * t.tanh(s / p["softcap"])
            if p.get("mask"):
                m = self.view(data, "mask")
                s = s.masked_fill(~m, float("-inf")) if m.dtype == t.bool else s + m.to(wide)
            if p.get("causal"):
                i, j = t.arange(p["queries"], device="cuda")[:, None], t.arange(p["keys"], device="cuda")[None]
                s = s.masked_fill(j > i + p["causal"]["offset"], float("-inf"))
            return (t.softmax(s, -1) @ v).permute(0, 2, 1, 3)
        if self.dtype == "s8":
            x = (acc.round().to(t.int64) + data["bias"]).to(t.float32) * data["scale"]
            if self.fused.get("residual"):
                x = x + data["residual"].view(self.shape_out).float()
            if self.fused.get("relu"):
                x = x.clamp(min=0)
            return x.round().clamp(-128, 127).to(t.int8)
        x = acc + data["bias"].to(wide)
        if self.fused.get("residual"):
            x = x + data["residual"].view(self.shape_out).to(wide)
        return x.clamp(min=0) if self.fused.get("relu") else x

    def args(self, record, data, scratch, memo):
        names = []
        for a in record["arguments"]:
            if a["kind"] == "operand":
                names.append(data[a["operand"]].data_ptr())
            elif a["kind"] == "scratch":
                names.append(scratch(a))
            elif a["kind"] == "tensorMap":
                names.append(tensor_map(a["map"], data[a["operand"]].data_ptr()))
            else:
                names += [data[n].data_ptr() for n in ("bias", "scale", "residual", "out") if n in data]
        array = (ctypes.c_void_p * max(1, len(names)))()
        for i, n in enumerate(names):
            if isinstance(n, tuple):
                memo.append(n[0])
                array[i] = n[1]
            else:
                holder = ctypes.c_uint64(n)
                memo.append(holder)
                array[i] = ctypes.addressof(holder)
        memo.append(array)
        return array

    def error(self, data, ref):
        t = self.torch
        got = data["out"].view(self.shape_out)
        guard = bool((data["guarded"][:256] == 0x7B).all() and (data["guarded"][-256:] == 0x7B).all())
        if self.dtype == "s8":
            return float((got.int() - ref.int()).abs().max()), guard
        got, ref = got.to(ref.dtype), ref
        nan = ref.isnan()
        if bool((got.isnan() != nan).any()):
            return float("nan"), guard
        top = float(ref[~nan].abs().max()) if bool((~nan).any()) else 1.0
        return float((got - ref)[~nan].abs().max() / max(top, 1e-30)) if bool((~nan).any()) else 0.0, guard

    def peer(self, data):
        """The same through PyTorch's libraries (bias left out), or None."""
        t, p = self.torch, self.p
        if self.dtype == "s8" and not (self.kind == "gemm" and p["M"] > 16 and not p["batch"]):
            return None
        if self.kind == "gemm":
            a, b = self.view(data, "a"), self.view(data, "b").transpose(-1, -2)
            if self.dtype == "s8":
                return lambda: t._int_mm(a, b)
            out = t.empty(a.shape[:-1] + b.shape[-1:], device="cuda", dtype=self.type)
            return lambda: t.matmul(a, b, out=out)
        if self.kind in ("conv", "depthwise") and not p.get("depth"):
            x = self.view(data, "a")[:, 0].permute(0, 3, 1, 2)
            w = self.view(data, "b")
            w = w[0].permute(2, 0, 1).unsqueeze(1).contiguous(memory_format=t.channels_last) if self.kind == "depthwise" else w[:, 0].permute(0, 3, 1, 2)
            return lambda: t.nn.functional.conv2d(x, w, None, p["stride"], p["pad"], p["dilation"], p["groups"])
        if self.kind == "attention" and not p.get("mask") and not p.get("softcap") and p["dim"] == p["dimV"] and p["heads"] == p["kvHeads"] and (not p.get("causal") or p["queries"] == p["keys"]):
            q, k, v = (self.view(data, n) for n in "qkv")
            return lambda: t.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=bool(p.get("causal")))
        return None


def time_graph(torch, launch, sets, repeats=7):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(sets):
            launch(i, stream)
    stream.synchronize()
    per = max(sets, 20) // sets * sets
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for i in range(per):
            launch(i % sets, torch.cuda.current_stream())
    times = []
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    graph.replay()
    for _ in range(repeats):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / per)
    return sorted(times)[len(times) // 2]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("dump")
    ap.add_argument("--out", default="results.jsonl")
    ap.add_argument("--time", type=int, default=1)
    ap.add_argument("--peers", type=int, default=1)
    ap.add_argument("--budget", type=float, default=170)
    ap.add_argument("--arch", default="")
    ap.add_argument("--summary", default="", help="write the best tactic of every case and the worst errors as JSON")
    ap.add_argument("--commit", default="", help="what the summary says the kernels were made from")
    ap.add_argument("--cache", default=os.path.join(tempfile.gettempdir(), "kernels-check"))
    o = ap.parse_args()
    start = time.time()
    os.makedirs(o.cache, exist_ok=True)
    records = json.load(open(os.path.join(o.dump, "cases.json")))
    done = set()
    if os.path.exists(o.out):
        done = {json.loads(line)["name"] for line in open(o.out)}
    records = [r for r in records if r["name"] not in done]
    arch = o.arch or "sm_90a"
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        cubins = list(pool.map(compile_one, [(os.path.join(o.dump, r["name"] + ".cu"), arch, o.cache) for r in records], chunksize=4))
    print("compiled %d kernels in %.1f s" % (len(records), time.time() - start), flush=True)
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.zeros(1, device="cuda")
    print(torch.cuda.get_device_name(), torch.__version__, "start %.1f s" % (time.time() - start), flush=True)
    out = open(o.out, "a")
    watch = {"name": None, "since": 0.0, "line": None}

    def emit(line):
        out.write(json.dumps(line) + "\n")
        out.flush()

    def dog():
        while True:
            time.sleep(0.5)
            if watch["name"] and time.time() - watch["since"] > 10:
                emit(dict(watch["line"], fault="hung"))
                print("HUNG", watch["name"], flush=True)
                os._exit(99)

    threading.Thread(target=dog, daemon=True).start()
    current, case, data, ref, peer_us, sets = None, None, None, None, None, []
    bad = 0
    for r, (cubin, log) in zip(records, cubins):
        if time.time() - start > o.budget:
            print("budget reached at", r["name"], flush=True)
            break
        line = dict(name=r["name"], set=r["set"], case=r["case"], tactic=r["tactic"], rank=r["rank"])
        if cubin is None:
            bad += 1
            emit(dict(line, fault="compile: " + log[:500]))
            print("COMPILE", r["name"], log[:300], flush=True)
            continue
        try:
            if current != r["case"] + r["set"]:
                case = Case(r, torch)
                sets = [case.data(1)]
                ref = case.reference(sets[0])
                current, peer_us = r["case"] + r["set"], None
                torch.cuda.synchronize()
                timed = o.time and case.flops > 1e7
                if timed:
                    count = max(1, min(8, int(150e6 / case.bytes) + 1))
                    sets += [case.data(1) for _ in range(count - 1)]
                    if o.peers and r["set"] not in ("awkward",):
                        try:
                            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = case.dtype == "tf32"
                            calls = [case.peer(s) for s in sets]
                            if calls[0]:
                                peer_us = time_graph(torch, lambda i, s: calls[i](), len(sets))
                        except Exception as e:
                            print("peer", r["case"], repr(e)[:120], flush=True)
                        finally:
                            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
                            calls = None
            watch.update(name=r["name"], since=time.time(), line=line)
            kernel = Kernel(cubin, r)
            memo, buffers = [], []

            def scratch(a):
                b = torch.zeros(a["bytes"], device="cuda", dtype=torch.uint8) if a["zero"] else torch.full((a["bytes"],), 0x7F, device="cuda", dtype=torch.uint8)
                buffers.append(b)
                return b.data_ptr()

            sets[0]["guarded"].fill_(0x7B)
            args = [case.args(r, s, scratch, memo) for s in sets]
            kernel.launch(args[0], torch.cuda.current_stream().cuda_stream)
            torch.cuda.synchronize()
            err, guard = case.error(sets[0], ref)
            line.update(error=err, guard=guard, **kernel.info)
            if o.time and case.flops > 1e7:
                line["us"] = time_graph(torch, lambda i, s: kernel.launch(args[i], s.cuda_stream), len(sets))
                again, _ = case.error(sets[-1], ref)
                err = max(err, again) if again == again else again
                line.update(error_after=again, tflops=case.flops / line["us"] / 1e6, floor=case.floor, peer=peer_us)
            line["ok"] = bool(err <= TOLERANCE[case.dtype] and guard)
            kernel.close()
            watch["name"] = None
        except Exception as e:
            watch["name"] = None
            line["fault"] = repr(e)[:300]
            line["ok"] = False
            emit(line)
            print("FAULT", r["name"], line["fault"], flush=True)
            os._exit(99)
        emit(line)
        if not line["ok"]:
            bad += 1
            print("WRONG", r["name"], r["tactic"], line["error"], line.get("error_after"), "guard", guard, flush=True)
    out.close()
    lines = [json.loads(x) for x in open(o.out)]
    best = {}
    for x in lines:
        if x.get("us") and x.get("ok") and (x["case"] not in best or x["us"] < best[x["case"]]["us"]):
            best[x["case"]] = x
    first = {x["case"]: x["us"] for x in lines if x.get("us") and x["rank"] == 0}
    for name, x in best.items():
        print("%-30s %9.2f us (first guess %8.2f) floor %8.2f peer %s %7.1f T/s %s" % (
            name, x["us"], first.get(name, float("nan")), x["floor"], "%8.2f" % x["peer"] if x.get("peer") else "       -", x["tflops"], x["tactic"]))
    if o.summary:
        worst = {}
        for x in lines:
            precision = x["case"].rsplit("_", 1)[1]
            worst[precision] = max(worst.get(precision, 0.0), x.get("error", math.inf), x.get("error_after", 0.0))
        round3 = lambda v: None if v is None else float("%.4g" % v)
        cases = [dict(case=n, tactic=x["tactic"], us=round3(x["us"]), first=round3(first.get(n)), floor=round3(x["floor"]), peer=round3(x.get("peer")), tflops=round3(x["tflops"]))
                 for n, x in sorted(best.items())]
        head = dict(schema="partita.kernels/1", device=torch.cuda.get_device_name(), torch=torch.__version__, date=time.strftime("%Y-%m-%d"), commit=o.commit,
                    kernels=len(lines), wrong=sum(not x.get("ok") for x in lines), worst=worst)
        with open(o.summary, "w") as f:
            f.write(json.dumps(head, indent=1)[:-2] + ',\n "cases": [\n' + ",\n".join("  " + json.dumps(c) for c in cases) + "\n ]\n}\n")
    print("%d kernels, %d wrong or faulted, %.1f s" % (len(lines), sum(not x.get("ok") for x in lines), time.time() - start))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
