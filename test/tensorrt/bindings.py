# NVIDIA's own Python bindings, compiled against NVIDIA's headers, drive the stand-in: what they call must be where the table of slots says.
# Arguments: the bindings' shared object, its module's name, a file with the model, a file for the result (JSON).
# The stand-in lies on LD_LIBRARY_PATH under the names that the bindings want.
import ctypes
import importlib.util
import json
import os
import struct
import sys

so, name, model_file, result_file = sys.argv[1:5]
spec = importlib.util.spec_from_file_location(name, so)
trt = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trt)
model = open(model_file, "rb").read()
out = {}


class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.lines = []

    def log(self, severity, text):
        self.lines.append(text)


class Monitor(trt.IProgressMonitor):
    def __init__(self):
        trt.IProgressMonitor.__init__(self)
        self.seen = []

    def phase_start(self, phase, parent, steps):
        self.seen.append(["start", phase, parent, steps])

    def step_complete(self, phase, step):
        self.seen.append(["step", phase, step])
        return True

    def phase_finish(self, phase):
        self.seen.append(["finish", phase])


class Profiler(trt.IProfiler):
    def __init__(self):
        trt.IProfiler.__init__(self)
        self.layers = []

    def report_layer_time(self, layer, ms):
        self.layers.append(layer)


class Recorder(trt.IErrorRecorder):
    def __init__(self):
        trt.IErrorRecorder.__init__(self)
        self.errors = []

    def clear(self):
        self.errors = []

    def report_error(self, code, text):
        self.errors.append([int(code), text])
        return True

    def num_errors(self):
        return len(self.errors)

    def get_error_code(self, i):
        return self.errors[i][0]

    def get_error_desc(self, i):
        return self.errors[i][1]

    def has_overflowed(self):
        return False


class Allocator(trt.IOutputAllocator):
    def __init__(self):
        trt.IOutputAllocator.__init__(self)
        # As aligned as TensorRT asks for.
        self.room = (ctypes.c_char * (2 * 512))()
        self.memory = (ctypes.c_float * 64).from_buffer(self.room, -ctypes.addressof(self.room) % 512)
        self.calls = []

    def reallocate_output(self, tensor, memory, size, alignment):
        self.calls.append(["memory", tensor, size, alignment])
        return ctypes.addressof(self.memory)

    def reallocate_output_async(self, tensor, memory, size, alignment, stream):
        self.calls.append(["memory", tensor, size, alignment])
        return ctypes.addressof(self.memory)

    def notify_shape(self, tensor, shape):
        self.calls.append(["dims", tensor, list(shape)])


log, monitor, profiler, recorder = Log(), Monitor(), Profiler(), Recorder()
builder = trt.Builder(log)
builder.error_recorder = recorder
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
config = builder.create_builder_config()
parser = trt.OnnxParser(network, log)
out["odd"] = parser.supports_model_v2(model.replace(b"Relu", b"Erfc"))
out["subgraphs"] = [[parser.is_subgraph_supported(i), list(parser.get_subgraph_nodes(i))] for i in range(parser.num_subgraphs)]
error = parser.get_error(0)
out["error"] = [int(error.code()), error.desc(), error.node(), error.node_name(), error.node_operator()]
out["parsed"] = parser.parse(model)
config.set_flag(trt.BuilderFlag.REFIT)
config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
config.clear_flag(trt.BuilderFlag.TF32)
config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 20)
config.builder_optimization_level = 2
config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.NONE
config.max_aux_streams = 1
config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
config.set_tactic_sources(1)
config.progress_monitor = monitor
if hasattr(type(config), "num_compute_capabilities"):
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
cache = config.create_timing_cache(b"")
config.set_timing_cache(cache, False)
profile = builder.create_optimization_profile()
profile.set_shape("x", (1, 3), (4, 3), (8, 3))
profile.set_shape_input("s", (1,), (2,), (3,))
out["profile"] = config.add_optimization_profile(profile)
plan = builder.build_serialized_network(network, config)
out["plan"] = bytes(plan)[:8].decode()
# Where REFIT, SPARSE_WEIGHTS and REFIT_IDENTICAL are, and that TF32 is not.
out["flags"] = [i for i in range(32) if struct.unpack_from("<I", bytes(plan), 24)[0] >> i & 1]
out["named"] = [int(getattr(trt.BuilderFlag, f)) for f in ("REFIT", "SPARSE_WEIGHTS", "REFIT_IDENTICAL")]
out["others"] = [int(getattr(trt.BuilderFlag, f)) for f in ("TF32", "VERSION_COMPATIBLE", "STRIP_PLAN")]
out["strong"] = int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
out["cache"] = bytes(cache.serialize()).decode()
out["monitor"] = monitor.seen
out["logged"] = len([line for line in log.lines if "tactic" in line])

runtime = trt.Runtime(log)
runtime.error_recorder = recorder
runtime.engine_host_code_allowed = True
out["refused"] = runtime.deserialize_cuda_engine(b"x" * 200) is None
out["recorded"] = recorder.errors[-1]
engine = runtime.deserialize_cuda_engine(plan)
out["engine"] = [engine.num_layers, engine.num_optimization_profiles, engine.refittable, engine.num_io_tensors, engine.device_memory_size_v2]
out["io"] = [
    [
        n,
        list(engine.get_tensor_shape(n)),
        int(engine.get_tensor_dtype(n)),
        int(engine.get_tensor_location(n)),
        int(engine.get_tensor_mode(n)),
    ]
    for n in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors))
]
out["range"] = [list(d) for d in engine.get_tensor_profile_shape("x", 0)]
out["inspector"] = json.loads(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
context = engine.create_execution_context()
out["chosen"] = context.set_optimization_profile_async(0, 0)
out["shape"] = context.set_input_shape("x", (2, 3))
out["missing"] = list(context.infer_shapes())
out["result"] = list(context.get_tensor_shape("y"))
x = (ctypes.c_float * 6)(1, 2, 3, -1, -2, -3)
y = (ctypes.c_float * 6)()
out["addresses"] = [context.set_tensor_address("x", ctypes.addressof(x)), context.set_tensor_address("y", ctypes.addressof(y))]
context.profiler = profiler
out["run"] = context.execute_async_v3(0)
out["y"] = list(y)
out["layers"] = profiler.layers
allocator = Allocator()
context.profiler = None
out["allocator"] = [context.set_output_allocator("y", allocator), context.execute_async_v3(0)]
out["allocated"] = allocator.calls
out["decided"] = list(allocator.memory)[:3]

refitter = trt.Refitter(engine, log)
refitter.error_recorder = recorder
out["weights"] = [sorted(refitter.get_all_weights()), refitter.get_missing_weights()]
parser_refitter = trt.OnnxParserRefitter(refitter, log)
out["from_model"] = [parser_refitter.refit_from_bytes(model), parser_refitter.num_errors]
out["refit"] = refitter.refit_cuda_engine()
with open(result_file, "w") as f:
    json.dump(out, f)
os._exit(0)
