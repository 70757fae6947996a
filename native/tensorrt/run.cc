// Runs of an execution context: shapes and addresses, enqueueV3, copies; as a CUDA graph; with the time of each layer.
#include <algorithm>

#include "../src/driver.h"
#include "engine.h"

namespace tensorrt {

namespace {

// Bits of an element by TensorRT's DataType.
constexpr int kBits[] = {32, 16, 8, 32, 8, 8, 8, 16, 64, 4, 4, 8};

// Bytes of a tensor; UINT64_MAX for dims that are open or overflow, and for types that are not known.
uint64_t bytesOfTensor(int32_t type, const Dims& dims) {
  if (type < 0 || type >= static_cast<int32_t>(sizeof kBits / sizeof *kBits) || dims.count < 0) return UINT64_MAX;
  uint64_t count = 1;
  for (int i = 0; i < dims.count && i < kMaxDims; i++) {
    if (dims.d[i] < 0) return UINT64_MAX;
    if (dims.d[i] == 0) return 0;
    if (count > (1ull << 56) / static_cast<uint64_t>(dims.d[i])) return UINT64_MAX;
    count *= static_cast<uint64_t>(dims.d[i]);
  }
  return (count * static_cast<uint64_t>(kBits[type]) + 7) / 8;
}

struct Binding {
  const IoTensor* tensor;
  Dims dims;
  uint64_t address = 0, capacity = 0;  // of device memory from the offset on
  Bytes host;
  uint64_t bytes = 0;  // the tensor's, once its dims are known
  bool asked = false;  // for its memory, by TensorRT: an output whose dims the data decides
  OutputRoom* room = nullptr;
};

class Launch : public Task {
 public:
  Launch(Napi::Env env, std::shared_ptr<ContextBox> box, cuda::Stream stream) : Task(env, box->engine->library, std::make_shared<Sink>()), box_(std::move(box)), stream_(stream) {}
  std::vector<Binding> inputs, outputs;

 protected:
  // Gives the context shapes and addresses; the outputs' dims come of it.
  bool bind() {
    const ExecutionContext& context = box_->context;
    for (Binding& b : inputs) {
      const char* const name = b.tensor->name.c_str();
      b.bytes = bytesOfTensor(b.tensor->type, b.dims);
      if (b.bytes > b.capacity) return fail("bind", "input '" + b.tensor->name + "' of dims " + toText(b.dims) + " needs " + bytesText(b.bytes) + ", its memory has " + std::to_string(b.capacity));
      if (b.host.length > 0 && b.host.length != b.bytes)
        return fail("bind", "input '" + b.tensor->name + "' of dims " + toText(b.dims) + " has " + bytesText(b.bytes) + ", its array " + std::to_string(b.host.length));
      if (!context.setInputShape(name, b.dims)) return fail("setInputShape", "dims " + toText(b.dims) + " of input '" + b.tensor->name + "' are refused");
      if (!context.setTensorAddress(name, reinterpret_cast<void*>(static_cast<uintptr_t>(b.address)))) return fail("setTensorAddress", "input '" + b.tensor->name + "' is refused");
    }
    const char* missing[8] = {};
    const int32_t unknown = context.inferShapes(8, missing);
    if (unknown != 0) {
      std::string names;
      for (int32_t i = 0; i < unknown && i < 8; i++) names += std::string(i > 0 ? ", " : "") + (missing[i] != nullptr ? missing[i] : "?");
      return fail("inferShapes", unknown < 0 ? "the dims do not go together" : "dims are missing: " + names);
    }
    for (Binding& b : outputs) {
      const char* const name = b.tensor->name.c_str();
      if (b.asked) {
        b.room = box_->roomOf(b.tensor->name);
        if (b.room == nullptr) return fail("bind", "output '" + b.tensor->name + "' is given no memory, and takes no allocator");
        b.room->begin();
        continue;
      }
      box_->dropRoom(b.tensor->name);
      b.dims = context.tensorShape(name);
      b.bytes = bytesOfTensor(b.tensor->type, b.dims);
      if (b.bytes == UINT64_MAX) return fail("bind", "the dims of output '" + b.tensor->name + "' are known only after the run: " + toText(b.dims));
      if (b.bytes > b.capacity) return fail("bind", "output '" + b.tensor->name + "' of dims " + toText(b.dims) + " needs " + bytesText(b.bytes) + ", its memory has " + std::to_string(b.capacity));
      if (b.host.data != nullptr && b.bytes > b.host.length)
        return fail("bind", "output '" + b.tensor->name + "' of dims " + toText(b.dims) + " needs " + bytesText(b.bytes) + ", its array has " + std::to_string(b.host.length));
      if (!context.setTensorAddress(name, reinterpret_cast<void*>(static_cast<uintptr_t>(b.address)))) return fail("setTensorAddress", "output '" + b.tensor->name + "' is refused");
    }
    return true;
  }
  bool copyIn() {
    for (const Binding& b : inputs)
      if (!b.tensor->host && b.host.length > 0 && driverFailed(driver().MemcpyHtoDAsync(b.address, b.host.data, b.bytes, stream_), "cuMemcpyHtoDAsync")) return false;
    return true;
  }
  bool enqueue() { return box_->context.enqueue(stream_) || fail("enqueueV3", "returned false"); }
  bool copyOut() {
    for (const Binding& b : outputs)
      if (!b.asked && !b.tensor->host && b.host.data != nullptr && b.bytes > 0 && driverFailed(driver().MemcpyDtoHAsync(b.host.data, b.address, b.bytes, stream_), "cuMemcpyDtoHAsync")) return false;
    return true;
  }
  // Also after a failure: the memory may be released once the task has settled. The first failure is the one that is told.
  bool wait(bool before) {
    const cuda::Result status = driver().StreamSynchronize(stream_);
    return before && !driverFailed(status, "cuStreamSynchronize");
  }
  static std::string bytesText(uint64_t bytes) { return bytes == UINT64_MAX ? "more bytes than there are" : std::to_string(bytes) + " bytes"; }

  std::shared_ptr<ContextBox> box_;
  cuda::Stream stream_;
};

class Run : public Launch {
 public:
  using Launch::Launch;
  bool timed = false;

 protected:
  bool perform() override {
    if (!bind()) return false;
    std::unique_ptr<Face> profiler;
    if (timed) {
      profiler = library_.family().profiler(times_);
      box_->context.setProfiler(profiler->address());
    }
    const bool done = wait(copyIn() && enqueue() && copyOut());
    if (timed) box_->context.setProfiler(nullptr);
    return done && fetch();
  }
  Napi::Value value() override {
    const Napi::Env env = Env();
    auto out = Napi::Object::New(env);
    auto dims = Napi::Array::New(env, outputs.size());
    for (uint32_t i = 0; i < outputs.size(); i++) dims.Set(i, toArray(env, outputs[i].dims));
    out["dims"] = dims;
    if (!fetched_.empty()) {
      auto data = Napi::Array::New(env, outputs.size());
      for (uint32_t i = 0; i < outputs.size(); i++)
        if (outputs[i].asked) data.Set(i, Napi::Buffer<uint8_t>::Copy(env, fetched_[i].data(), fetched_[i].size()));
      out["data"] = data;
    }
    if (!timed) return out;
    auto layers = Napi::Array::New(env, times_.size());
    for (uint32_t i = 0; i < times_.size(); i++) {
      auto one = Napi::Object::New(env);
      one["name"] = times_[i].name;
      one["ms"] = times_[i].ms;
      layers.Set(i, one);
    }
    out["layers"] = layers;
    return out;
  }

 private:
  // Outputs in memory that TensorRT asked for, now that their dims are known.
  bool fetch() {
    for (size_t i = 0; i < outputs.size(); i++) {
      Binding& b = outputs[i];
      if (!b.asked) continue;
      b.dims = b.room->dims();
      b.bytes = bytesOfTensor(b.tensor->type, b.dims);
      if (b.bytes == UINT64_MAX) return fail("enqueueV3", "told no dims of output '" + b.tensor->name + "'");
      fetched_.resize(outputs.size());
      fetched_[i].resize(b.bytes);
      if (b.bytes > 0 && driverFailed(driver().MemcpyDtoHAsync(fetched_[i].data(), b.room->address(), b.bytes, stream_), "cuMemcpyDtoHAsync")) return wait(false);
    }
    return fetched_.empty() || wait(true);
  }
  std::vector<LayerTime> times_;
  std::vector<std::vector<uint8_t>> fetched_;
};

class Capture : public Launch {
 public:
  using Launch::Launch;
  uint64_t gpu = 0, owner = 0;

 protected:
  bool perform() override {
    Driver& d = driver();
    // The run before settles what TensorRT puts off to the first run of a shape: none of that may happen under capture.
    if (!bind() || !wait(copyIn() && enqueue())) return false;
    if (driverFailed(d.StreamBeginCapture(stream_, cuda::kCaptureThreadLocal), "cuStreamBeginCapture")) return false;
    const bool enqueued = enqueue();
    cuda::Graph graph = nullptr;
    const cuda::Result ended = d.StreamEndCapture(stream_, &graph);
    const cuda::Result made = ended != 0 || !enqueued ? ended : d.GraphInstantiate(&exec_, graph, 0);
    if (graph != nullptr) d.GraphDestroy(graph);
    if (!enqueued) return false;
    if (driverFailed(made, ended != 0 ? "cuStreamEndCapture" : "cuGraphInstantiate")) return false;
    return !driverFailed(d.GraphUpload(exec_, stream_), "cuGraphUpload") || (d.GraphExecDestroy(exec_), false);
  }
  Napi::Value value() override { return result(Env(), state(Env()).keep(Kind::Graph, gpu, reinterpret_cast<uintptr_t>(exec_), 0, owner)); }

 private:
  cuda::GraphExec exec_ = nullptr;
};

// Reads { name, dims, memory, offset, host } of each tensor; every one of the engine's must be there, once.
void read(Napi::Env env, Launch& task, const EngineBox& engine, const Napi::Value& given, bool input, std::vector<Binding>& into) {
  State& s = state(env);
  const auto list = array(env, given, input ? "inputs" : "outputs");
  const std::string kind = input ? "input" : "output";
  for (uint32_t i = 0; i < list.Length(); i++) {
    if (!list.Get(i).IsObject()) throw Napi::TypeError::New(env, "an " + kind + " must be an object");
    const auto one = list.Get(i).As<Napi::Object>();
    const std::string name = text(env, one.Get("name"), "name");
    Binding b{engine.find(name), {}, 0, 0, {}, 0};
    if (b.tensor == nullptr || b.tensor->input != input) throw Napi::RangeError::New(env, "the engine has no " + kind + " '" + name + "'");
    for (const Binding& other : into)
      if (other.tensor == b.tensor) throw Napi::RangeError::New(env, kind + " '" + name + "' is given twice");
    if (input) b.dims = dimsOf(env, one.Get("dims"), ("the dims of input '" + name + "'").c_str());
    const Napi::Value host = one.Get("host"), memory = one.Get("memory");
    if (!host.IsUndefined()) {
      b.host = bytesOf(env, host);
      task.hold(host);
    }
    if (!input && !b.tensor->host && memory.IsUndefined()) {
      if (b.host.data != nullptr) throw Napi::TypeError::New(env, "output '" + name + "' has an array and no memory");
      b.asked = true;
    } else if (b.tensor->host) {
      if (b.host.data == nullptr) throw Napi::TypeError::New(env, kind + " '" + name + "' is a shape tensor: it needs a host array");
      b.address = reinterpret_cast<uintptr_t>(b.host.data);
      b.capacity = b.host.length;
    } else {
      Handle& h = s.get(env, memory, Kind::Memory);
      const Napi::Value offset = one.Get("offset");
      const uint64_t from = offset.IsUndefined() ? 0 : number(env, offset, "offset");
      inside(env, h, from, 0);
      b.address = h.value + from;
      b.capacity = h.bytes - from;
      task.use(h);
    }
    into.push_back(b);
  }
  for (const IoTensor& t : engine.io)
    if (t.input == input && std::none_of(into.begin(), into.end(), [&](const Binding& b) { return b.tensor == &t; }))
      throw Napi::RangeError::New(env, kind + " '" + t.name + "' of the engine is not given");
}

template <class T>
std::unique_ptr<T> launch(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  Handle& h = s.get(env, info[0], Kind::Execution);
  Handle& stream = s.get(env, info[1], Kind::Stream);
  if (h.busy > 0) throw Napi::Error::New(env, "the execution context is in use by a run: it takes one at a time");
  const auto box = contextBoxOf(h);
  if (stream.context != h.context) throw Napi::TypeError::New(env, "the stream is of another GPU than the engine");
  auto task = std::make_unique<T>(env, box, as<cuda::Stream>(stream));
  task->on(box->engine->context);
  read(env, *task, *box->engine, info[2], true, task->inputs);
  read(env, *task, *box->engine, info[3], false, task->outputs);
  task->use(h);
  task->use(stream);
  return task;
}

// run(context, stream, inputs, outputs, timed): Promise<{ dims, layers? }>
Napi::Value StartRun(const Napi::CallbackInfo& info) {
  auto task = launch<Run>(info);
  task->timed = info[4].ToBoolean();
  return Task::start(std::move(task));
}

// capture(context, stream, inputs, outputs): Promise<handle of a graph>. The context cannot be released before the graph.
Napi::Value StartCapture(const Napi::CallbackInfo& info) {
  auto task = launch<Capture>(info);
  for (const Binding& b : task->outputs)
    if (b.asked) throw Napi::TypeError::New(info.Env(), "output '" + b.tensor->name + "' has no memory: a graph needs its address");
  const Handle& h = state(info.Env()).get(info.Env(), info[0], Kind::Execution);
  task->gpu = h.context;
  task->owner = h.id;
  return Task::start(std::move(task));
}

// outputDims(context, inputs: { name, dims, host? }[]): { name: dims }, without a run.
Napi::Value OutputDims(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Handle& h = state(env).get(env, info[0], Kind::Execution);
  if (h.busy > 0) throw Napi::Error::New(env, "the execution context is in use by a run: it takes one at a time");
  const auto box = contextBoxOf(h);
  const EngineBox& engine = *box->engine;
  const auto sink = std::make_shared<Sink>();
  const Listening listening(engine.library.log(), sink);
  const Current current(engine.context);
  check(env, current.status(), "cuCtxPushCurrent");
  const auto list = array(env, info[1], "inputs");
  for (uint32_t i = 0; i < list.Length(); i++) {
    const auto one = list.Get(i).ToObject();
    const std::string name = text(env, one.Get("name"), "name");
    const IoTensor* t = engine.find(name);
    if (t == nullptr || !t->input) throw Napi::RangeError::New(env, "the engine has no input '" + name + "'");
    const Dims dims = dimsOf(env, one.Get("dims"), "dims");
    if (!box->context.setInputShape(name.c_str(), dims)) throw toError(env, {"setInputShape", "dims " + toText(dims) + " of input '" + name + "' are refused", {}}, *sink);
    if (!t->host) continue;
    const Bytes host = bytesOf(env, one.Get("host"));
    if (host.length != bytesOfTensor(t->type, dims)) throw Napi::RangeError::New(env, "the array of input '" + name + "' does not fit its dims");
    if (!box->context.setTensorAddress(name.c_str(), host.data)) throw toError(env, {"setTensorAddress", "input '" + name + "' is refused", {}}, *sink);
  }
  const int32_t unknown = box->context.inferShapes(0, nullptr);
  if (unknown != 0) throw toError(env, {"inferShapes", "dims are missing or do not go together", {}}, *sink);
  auto out = Napi::Object::New(env);
  for (const IoTensor& t : engine.io)
    if (!t.input) out[t.name] = toArray(env, box->context.tensorShape(t.name.c_str()));
  return out;
}

}  // namespace

void registerRun(Napi::Env env, Napi::Object exports) {
  exports["run"] = Napi::Function::New(env, StartRun, "run");
  exports["capture"] = Napi::Function::New(env, StartCapture, "capture");
  exports["outputDims"] = Napi::Function::New(env, OutputDims, "outputDims");
}

}  // namespace tensorrt
