#include "driver.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace {

// What a handle stands for. JavaScript sees small numbers; a wrong, stale or foreign one is an error, never a wild pointer.
enum class Kind { Context, Module, Function, Memory, Host, Stream, Event, Graph };
const char* const kindNames[] = {"context", "module", "function", "device memory", "pinned memory", "stream", "event", "graph"};

struct Handle {
  Kind kind;
  uint32_t context = 0;  // the owning context's handle; 0 for a context itself
  uint64_t value = 0;    // pointer, device address or ordinal
  uint64_t bytes = 0;    // of memory
};

std::unordered_map<uint32_t, Handle> handles;
uint32_t nextHandle = 1;

uint32_t keep(Kind kind, uint32_t context, uint64_t value, uint64_t bytes = 0) {
  const uint32_t id = nextHandle++;
  handles[id] = Handle{kind, context, value, bytes};
  return id;
}

Handle& get(Napi::Env env, const Napi::Value& v, Kind kind) {
  const uint32_t id = v.IsNumber() ? v.As<Napi::Number>().Uint32Value() : 0;
  const auto found = handles.find(id);
  if (found == handles.end() || found->second.kind != kind)
    throw Napi::TypeError::New(env, std::string("expected a live ") + kindNames[static_cast<int>(kind)] + " handle, got " + v.ToString().Utf8Value());
  return found->second;
}

template <class T>
T as(const Handle& h) {
  return reinterpret_cast<T>(static_cast<uintptr_t>(h.value));
}

// Makes a context current for a scope, on whatever thread that scope runs.
class Current {
 public:
  explicit Current(cuda::Context c) : status_(driver().CtxPushCurrent(c)) {}
  ~Current() {
    cuda::Context popped;
    if (status_ == 0) driver().CtxPopCurrent(&popped);
  }
  cuda::Result status() const { return status_; }

 private:
  cuda::Result status_;
};

cuda::Context contextOf(const Handle& h) { return as<cuda::Context>(handles.at(h.context)); }

struct Bytes {
  uint8_t* data = nullptr;
  size_t length = 0;
};

Bytes bytesOf(Napi::Env env, const Napi::Value& v) {
  if (v.IsTypedArray()) {
    const auto a = v.As<Napi::TypedArray>();
    return {static_cast<uint8_t*>(a.ArrayBuffer().Data()) + a.ByteOffset(), a.ByteLength()};
  }
  if (v.IsArrayBuffer()) {
    auto a = v.As<Napi::ArrayBuffer>();
    return {static_cast<uint8_t*>(a.Data()), a.ByteLength()};
  }
  throw Napi::TypeError::New(env, "expected a typed array or an ArrayBuffer");
}

uint64_t number(const Napi::Value& v) { return static_cast<uint64_t>(std::max<int64_t>(0, v.As<Napi::Number>().Int64Value())); }

void inside(Napi::Env env, const Handle& memory, uint64_t offset, uint64_t length) {
  if (offset > memory.bytes || length > memory.bytes - offset)
    throw Napi::RangeError::New(env, "range [" + std::to_string(offset) + ", +" + std::to_string(length) + ") is outside memory of " + std::to_string(memory.bytes) + " bytes");
}

// ---- devices and contexts --------------------------------------------------------------------------------------------------------

Napi::Value Open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Driver& d = driver();
  if (!d.open()) throw nativeError(env, "dlopen", -1, d.library.loaded() ? "libcuda has no " + d.missing : d.library.error());
  check(env, d.Init(0), "cuInit");
  int version = 0, count = 0;
  check(env, d.DriverGetVersion(&version), "cuDriverGetVersion");
  check(env, d.DeviceGetCount(&count), "cuDeviceGetCount");
  auto out = Napi::Object::New(env);
  out["version"] = version;
  out["devices"] = count;
  out["library"] = d.library.path();
  return out;
}

Napi::Value DeviceInfo(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Driver& d = driver();
  cuda::Device device = 0;
  check(env, d.DeviceGet(&device, info[0].As<Napi::Number>().Int32Value()), "cuDeviceGet");
  char name[256] = {};
  size_t total = 0;
  check(env, d.DeviceGetName(name, sizeof name - 1, device), "cuDeviceGetName");
  check(env, d.DeviceTotalMem(&total, device), "cuDeviceTotalMem");
  auto attribute = [&](int which) {
    int value = 0;
    check(env, d.DeviceGetAttribute(&value, which, device), "cuDeviceGetAttribute");
    return value;
  };
  auto out = Napi::Object::New(env);
  out["name"] = std::string(name);
  out["memoryBytes"] = static_cast<double>(total);
  out["sm"] = attribute(cuda::kMajor) * 10 + attribute(cuda::kMinor);
  out["multiprocessors"] = attribute(cuda::kMultiprocessors);
  out["clockKHz"] = attribute(cuda::kClockRate);
  out["memoryClockKHz"] = attribute(cuda::kMemoryClock);
  out["busBits"] = attribute(cuda::kBusWidth);
  out["l2Bytes"] = attribute(cuda::kL2Bytes);
  out["sharedPerBlockBytes"] = attribute(cuda::kMaxSharedOptin);
  out["sharedPerMultiprocessorBytes"] = attribute(cuda::kMaxSharedPerMultiprocessor);
  return out;
}

Napi::Value ContextCreate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  cuda::Device device = 0;
  check(env, driver().DeviceGet(&device, info[0].As<Napi::Number>().Int32Value()), "cuDeviceGet");
  cuda::Context c = nullptr;
  check(env, driver().PrimaryCtxRetain(&c, device), "cuDevicePrimaryCtxRetain");
  const uint32_t id = keep(Kind::Context, 0, reinterpret_cast<uintptr_t>(c), static_cast<uint64_t>(device));
  handles[id].context = id;
  return Napi::Number::New(env, id);
}

Napi::Value MemoryInfo(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Current current(contextOf(get(env, info[0], Kind::Context)));
  check(env, current.status(), "cuCtxPushCurrent");
  size_t free = 0, total = 0;
  check(env, driver().MemGetInfo(&free, &total), "cuMemGetInfo");
  auto out = Napi::Object::New(env);
  out["freeBytes"] = static_cast<double>(free);
  out["totalBytes"] = static_cast<double>(total);
  return out;
}

// ---- modules and functions ---------------------------------------------------------------------------------------------------------

Napi::Value ModuleLoad(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& context = get(env, info[0], Kind::Context);
  const Bytes image = bytesOf(env, info[1]);
  if (image.length == 0) throw Napi::RangeError::New(env, "an empty image is no module");
  // cuModuleLoadData reads PTX up to a terminating zero, so the copy ends in one whatever the image is.
  std::vector<uint8_t> copy(image.data, image.data + image.length);
  copy.push_back(0);
  Current current(contextOf(context));
  check(env, current.status(), "cuCtxPushCurrent");
  cuda::Module m = nullptr;
  check(env, driver().ModuleLoadData(&m, copy.data()), "cuModuleLoadData");
  return Napi::Number::New(env, keep(Kind::Module, context.context, reinterpret_cast<uintptr_t>(m)));
}

Napi::Value FunctionGet(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& module = get(env, info[0], Kind::Module);
  const std::string name = info[1].As<Napi::String>().Utf8Value();
  const int dynamicShared = info.Length() > 2 && info[2].IsNumber() ? info[2].As<Napi::Number>().Int32Value() : 0;
  Current current(contextOf(module));
  check(env, current.status(), "cuCtxPushCurrent");
  cuda::Function f = nullptr;
  check(env, driver().ModuleGetFunction(&f, as<cuda::Module>(module), name.c_str()), ("cuModuleGetFunction " + name).c_str());
  if (dynamicShared > 48 * 1024) check(env, driver().FuncSetAttribute(f, cuda::kFnMaxDynamicShared, dynamicShared), ("cuFuncSetAttribute " + name).c_str());
  auto attribute = [&](int which) {
    int value = 0;
    check(env, driver().FuncGetAttribute(&value, which, f), "cuFuncGetAttribute");
    return value;
  };
  auto out = Napi::Object::New(env);
  out["registers"] = attribute(cuda::kFnRegisters);
  out["sharedBytes"] = attribute(cuda::kFnSharedBytes);
  out["localBytes"] = attribute(cuda::kFnLocalBytes);
  out["maxThreads"] = attribute(cuda::kFnMaxThreads);
  out["handle"] = keep(Kind::Function, module.context, reinterpret_cast<uintptr_t>(f));
  return out;
}

// ---- memory ----------------------------------------------------------------------------------------------------------------------------

Napi::Value MemAlloc(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& context = get(env, info[0], Kind::Context);
  const uint64_t bytes = number(info[1]);
  Current current(contextOf(context));
  check(env, current.status(), "cuCtxPushCurrent");
  cuda::DevicePtr p = 0;
  check(env, driver().MemAlloc(&p, std::max<uint64_t>(bytes, 1)), ("cuMemAlloc " + std::to_string(bytes) + " bytes").c_str());
  return Napi::Number::New(env, keep(Kind::Memory, context.context, p, bytes));
}

// The device address, for kernel arguments.
Napi::Value MemAddress(const Napi::CallbackInfo& info) {
  return Napi::BigInt::New(info.Env(), get(info.Env(), info[0], Kind::Memory).value);
}

// A pinned ArrayBuffer of its own memory; it is unpinned when the handle is released, which TypeScript does after its last use.
Napi::Value HostAlloc(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& context = get(env, info[0], Kind::Context);
  const uint64_t bytes = std::max<uint64_t>(number(info[1]), 1);
  Current current(contextOf(context));
  check(env, current.status(), "cuCtxPushCurrent");
  void* p = nullptr;
  check(env, driver().MemHostAlloc(&p, bytes, cuda::kHostAllocPortable), "cuMemHostAlloc");
  const uint32_t id = keep(Kind::Host, context.context, reinterpret_cast<uintptr_t>(p), bytes);
  auto out = Napi::Object::New(env);
  out["handle"] = id;
  out["buffer"] = Napi::ArrayBuffer::New(env, p, bytes);
  return out;
}

Napi::Value Upload(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& memory = get(env, info[0], Kind::Memory);
  const uint64_t offset = number(info[1]);
  const Bytes source = bytesOf(env, info[2]);
  inside(env, memory, offset, source.length);
  if (source.length == 0) return env.Undefined();
  Current current(contextOf(memory));
  check(env, current.status(), "cuCtxPushCurrent");
  check(env, driver().MemcpyHtoD(memory.value + offset, source.data, source.length), "cuMemcpyHtoD");
  return env.Undefined();
}

Napi::Value Download(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& memory = get(env, info[0], Kind::Memory);
  const uint64_t offset = number(info[1]);
  const Bytes target = bytesOf(env, info[2]);
  inside(env, memory, offset, target.length);
  if (target.length == 0) return env.Undefined();
  Current current(contextOf(memory));
  check(env, current.status(), "cuCtxPushCurrent");
  check(env, driver().MemcpyDtoH(target.data, memory.value + offset, target.length), "cuMemcpyDtoH");
  return env.Undefined();
}

Napi::Value Fill(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& stream = get(env, info[0], Kind::Stream);
  const Handle& memory = get(env, info[1], Kind::Memory);
  const uint64_t offset = number(info[2]), length = number(info[3]);
  inside(env, memory, offset, length);
  Current current(contextOf(stream));
  check(env, current.status(), "cuCtxPushCurrent");
  if (length > 0) check(env, driver().MemsetD8Async(memory.value + offset, static_cast<unsigned char>(number(info[4])), length, as<cuda::Stream>(stream)), "cuMemsetD8Async");
  return env.Undefined();
}

// ---- streams, events, launches, graphs --------------------------------------------------------------------------------------------------

Napi::Value StreamCreate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& context = get(env, info[0], Kind::Context);
  Current current(contextOf(context));
  check(env, current.status(), "cuCtxPushCurrent");
  cuda::Stream s = nullptr;
  check(env, driver().StreamCreate(&s, cuda::kStreamNonBlocking), "cuStreamCreate");
  return Napi::Number::New(env, keep(Kind::Stream, context.context, reinterpret_cast<uintptr_t>(s)));
}

Napi::Value EventCreate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& context = get(env, info[0], Kind::Context);
  Current current(contextOf(context));
  check(env, current.status(), "cuCtxPushCurrent");
  cuda::Event e = nullptr;
  check(env, driver().EventCreate(&e, 0), "cuEventCreate");
  return Napi::Number::New(env, keep(Kind::Event, context.context, reinterpret_cast<uintptr_t>(e)));
}

Napi::Value EventRecord(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& event = get(env, info[0], Kind::Event);
  const Handle& stream = get(env, info[1], Kind::Stream);
  Current current(contextOf(stream));
  check(env, current.status(), "cuCtxPushCurrent");
  check(env, driver().EventRecord(as<cuda::Event>(event), as<cuda::Stream>(stream)), "cuEventRecord");
  return env.Undefined();
}

Napi::Value EventElapsed(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& from = get(env, info[0], Kind::Event);
  const Handle& to = get(env, info[1], Kind::Event);
  Current current(contextOf(to));
  check(env, current.status(), "cuCtxPushCurrent");
  check(env, driver().EventSynchronize(as<cuda::Event>(to)), "cuEventSynchronize");
  float ms = 0;
  check(env, driver().EventElapsedTime(&ms, as<cuda::Event>(from), as<cuda::Event>(to)), "cuEventElapsedTime");
  return Napi::Number::New(env, ms);
}

// launch(stream, function, [gx, gy, gz], [bx, by, bz], sharedBytes, arguments, programmatic?): arguments is the packed parameter buffer.
Napi::Value Launch(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& stream = get(env, info[0], Kind::Stream);
  const Handle& function = get(env, info[1], Kind::Function);
  const auto grid = info[2].As<Napi::Array>(), block = info[3].As<Napi::Array>();
  auto part = [](const Napi::Array& a, uint32_t i) { return a.Get(i).As<Napi::Number>().Uint32Value(); };
  const Bytes arguments = bytesOf(env, info[5]);
  // Tensor maps in the parameter buffer want 64-byte alignment.
  alignas(64) uint8_t packed[4096];
  if (arguments.length > sizeof packed) throw Napi::RangeError::New(env, "kernel arguments take more than 4096 bytes");
  if (arguments.length > 0) std::memcpy(packed, arguments.data, arguments.length);
  size_t size = arguments.length;
  void* extra[] = {cuda::kParamBufferPointer, packed, cuda::kParamBufferSize, &size, cuda::kParamEnd};
  cuda::LaunchAttribute attribute{};
  attribute.id = cuda::kAttrProgrammaticStreamSerialization;
  attribute.value.programmaticStreamSerializationAllowed = 1;
  const bool programmatic = info.Length() > 6 && info[6].ToBoolean().Value();
  cuda::LaunchConfig config{part(grid, 0), part(grid, 1), part(grid, 2), part(block, 0), part(block, 1), part(block, 2),
                            info[4].As<Napi::Number>().Uint32Value(), as<cuda::Stream>(stream), programmatic ? &attribute : nullptr, programmatic ? 1u : 0u};
  Current current(contextOf(stream));
  check(env, current.status(), "cuCtxPushCurrent");
  check(env, driver().LaunchKernelEx(&config, as<cuda::Function>(function), nullptr, size == 0 ? nullptr : extra), "cuLaunchKernelEx");
  return env.Undefined();
}

Napi::Value CaptureBegin(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& stream = get(env, info[0], Kind::Stream);
  Current current(contextOf(stream));
  check(env, current.status(), "cuCtxPushCurrent");
  check(env, driver().StreamBeginCapture(as<cuda::Stream>(stream), cuda::kCaptureThreadLocal), "cuStreamBeginCapture");
  return env.Undefined();
}

Napi::Value CaptureEnd(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& stream = get(env, info[0], Kind::Stream);
  Current current(contextOf(stream));
  check(env, current.status(), "cuCtxPushCurrent");
  cuda::Graph g = nullptr;
  check(env, driver().StreamEndCapture(as<cuda::Stream>(stream), &g), "cuStreamEndCapture");
  cuda::GraphExec exec = nullptr;
  const cuda::Result made = driver().GraphInstantiate(&exec, g, 0);
  driver().GraphDestroy(g);
  check(env, made, "cuGraphInstantiate");
  return Napi::Number::New(env, keep(Kind::Graph, stream.context, reinterpret_cast<uintptr_t>(exec)));
}

Napi::Value GraphLaunch(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& graph = get(env, info[0], Kind::Graph);
  const Handle& stream = get(env, info[1], Kind::Stream);
  Current current(contextOf(stream));
  check(env, current.status(), "cuCtxPushCurrent");
  check(env, driver().GraphLaunch(as<cuda::GraphExec>(graph), as<cuda::Stream>(stream)), "cuGraphLaunch");
  return env.Undefined();
}

// One inference: uploads, a graph, downloads, and the wait for them, off the event loop. The typed arrays are held until it settles.
class Execution : public Napi::AsyncWorker {
 public:
  struct Copy {
    cuda::DevicePtr device;
    uint8_t* host;
    size_t bytes;
  };
  Execution(Napi::Env env, cuda::Context context, cuda::Stream stream, cuda::GraphExec graph)
      : Napi::AsyncWorker(env), deferred(Napi::Promise::Deferred::New(env)), context_(context), stream_(stream), graph_(graph) {}
  Napi::Promise::Deferred deferred;
  std::vector<Copy> uploads, downloads;
  std::vector<Napi::ObjectReference> held;

 protected:
  void Execute() override {
    Driver& d = driver();
    Current current(context_);
    if (!step(current.status(), "cuCtxPushCurrent")) return;
    for (const auto& u : uploads)
      if (u.bytes > 0 && !step(d.MemcpyHtoDAsync(u.device, u.host, u.bytes, stream_), "cuMemcpyHtoDAsync")) return;
    if (graph_ != nullptr && !step(d.GraphLaunch(graph_, stream_), "cuGraphLaunch")) return;
    for (const auto& w : downloads)
      if (w.bytes > 0 && !step(d.MemcpyDtoHAsync(w.host, w.device, w.bytes, stream_), "cuMemcpyDtoHAsync")) return;
    step(d.StreamSynchronize(stream_), "cuStreamSynchronize");
  }
  void OnOK() override {
    if (status_ == 0)
      deferred.Resolve(Env().Undefined());
    else
      deferred.Reject(nativeError(Env(), call_, status_, driver().describe(status_)).Value());
  }

 private:
  bool step(cuda::Result r, const char* call) {
    if (r != 0 && status_ == 0) {
      status_ = r;
      call_ = call;
    }
    return r == 0;
  }
  cuda::Context context_;
  cuda::Stream stream_;
  cuda::GraphExec graph_;
  cuda::Result status_ = 0;
  std::string call_;
};

// execute(stream, graph | 0, [[memory, offset, array]...] up, [[memory, offset, array]...] down): Promise<void>
Napi::Value Execute(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& stream = get(env, info[0], Kind::Stream);
  const bool withGraph = info[1].As<Napi::Number>().Uint32Value() != 0;
  auto worker = std::make_unique<Execution>(env, contextOf(stream), as<cuda::Stream>(stream), withGraph ? as<cuda::GraphExec>(get(env, info[1], Kind::Graph)) : nullptr);
  auto read = [&](const Napi::Array& list, std::vector<Execution::Copy>& into) {
    for (uint32_t i = 0; i < list.Length(); i++) {
      const auto one = list.Get(i).As<Napi::Array>();
      const Handle& memory = get(env, one.Get(0u), Kind::Memory);
      const uint64_t offset = number(one.Get(1u));
      const Bytes host = bytesOf(env, one.Get(2u));
      inside(env, memory, offset, host.length);
      into.push_back({memory.value + offset, host.data, host.length});
      worker->held.push_back(Napi::Persistent(one.Get(2u).As<Napi::Object>()));
    }
  };
  read(info[2].As<Napi::Array>(), worker->uploads);
  read(info[3].As<Napi::Array>(), worker->downloads);
  const auto promise = worker->deferred.Promise();
  worker.release()->Queue();  // the worker deletes itself when it is done
  return promise;
}

Napi::Value Synchronize(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& stream = get(env, info[0], Kind::Stream);
  auto worker = std::make_unique<Execution>(env, contextOf(stream), as<cuda::Stream>(stream), nullptr);
  const auto promise = worker->deferred.Promise();
  worker.release()->Queue();
  return promise;
}

// ---- tensor maps -------------------------------------------------------------------------------------------------------------------------

template <class T>
std::vector<T> list(const Napi::Value& v) {
  const auto a = v.As<Napi::Array>();
  std::vector<T> out;
  for (uint32_t i = 0; i < a.Length(); i++) out.push_back(static_cast<T>(a.Get(i).As<Napi::Number>().Int64Value()));
  return out;
}

// tensorMapTiled(memory, offset, type, dims, strides, box, elementStrides, interleave, swizzle, l2, fill): the 128 bytes of the map.
Napi::Value TensorMapTiled(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& memory = get(env, info[0], Kind::Memory);
  const uint64_t offset = number(info[1]);
  inside(env, memory, offset, 0);
  const auto dims = list<uint64_t>(info[3]), strides = list<uint64_t>(info[4]);
  const auto box = list<uint32_t>(info[5]), steps = list<uint32_t>(info[6]);
  if (dims.empty() || dims.size() > 5 || strides.size() + 1 != dims.size() || box.size() != dims.size() || steps.size() != dims.size())
    throw Napi::RangeError::New(env, "a tensor map has 1 to 5 dims, one stride fewer, and as many box and element strides");
  auto i = [&](size_t at) { return info[at].As<Napi::Number>().Int32Value(); };
  alignas(64) uint8_t map[128];
  check(env, driver().TensorMapEncodeTiled(map, i(2), static_cast<unsigned>(dims.size()), reinterpret_cast<void*>(memory.value + offset), dims.data(), strides.data(), box.data(), steps.data(), i(7), i(8), i(9), i(10)),
        "cuTensorMapEncodeTiled");
  return Napi::Buffer<uint8_t>::Copy(env, map, sizeof map);
}

// tensorMapIm2col(memory, offset, type, dims, strides, lower, upper, channels, pixels, elementStrides, interleave, swizzle, l2, fill)
Napi::Value TensorMapIm2col(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Handle& memory = get(env, info[0], Kind::Memory);
  const uint64_t offset = number(info[1]);
  inside(env, memory, offset, 0);
  const auto dims = list<uint64_t>(info[3]), strides = list<uint64_t>(info[4]);
  const auto lower = list<int>(info[5]), upper = list<int>(info[6]);
  const auto steps = list<uint32_t>(info[9]);
  if (dims.size() < 3 || dims.size() > 5 || strides.size() + 1 != dims.size() || lower.size() + 2 != dims.size() || upper.size() != lower.size() || steps.size() != dims.size())
    throw Napi::RangeError::New(env, "an im2col map has 3 to 5 dims, one stride fewer, two corner entries fewer, and as many element strides");
  auto i = [&](size_t at) { return info[at].As<Napi::Number>().Int32Value(); };
  alignas(64) uint8_t map[128];
  check(env, driver().TensorMapEncodeIm2col(map, i(2), static_cast<unsigned>(dims.size()), reinterpret_cast<void*>(memory.value + offset), dims.data(), strides.data(), lower.data(), upper.data(), static_cast<uint32_t>(i(7)),
                                            static_cast<uint32_t>(i(8)), steps.data(), i(10), i(11), i(12), i(13)),
        "cuTensorMapEncodeIm2col");
  return Napi::Buffer<uint8_t>::Copy(env, map, sizeof map);
}

// ---- release ---------------------------------------------------------------------------------------------------------------------------------

// release(handle): ends whatever it is. A handle that is gone is no error: disposal may come twice.
Napi::Value Release(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const uint32_t id = info[0].As<Napi::Number>().Uint32Value();
  const auto found = handles.find(id);
  if (found == handles.end()) return env.Undefined();
  const Handle h = found->second;
  Driver& d = driver();
  cuda::Result r = 0;
  {
    Current current(contextOf(h));
    handles.erase(found);
    check(env, current.status(), "cuCtxPushCurrent");
    switch (h.kind) {
      case Kind::Context: break;
      case Kind::Module: r = d.ModuleUnload(as<cuda::Module>(h)); break;
      case Kind::Function: break;
      case Kind::Memory: r = d.MemFree(h.value); break;
      case Kind::Host: r = d.MemFreeHost(as<void*>(h)); break;
      case Kind::Stream: r = d.StreamDestroy(as<cuda::Stream>(h)); break;
      case Kind::Event: r = d.EventDestroy(as<cuda::Event>(h)); break;
      case Kind::Graph: r = d.GraphExecDestroy(as<cuda::GraphExec>(h)); break;
    }
  }
  if (h.kind == Kind::Context) r = d.PrimaryCtxRelease(static_cast<cuda::Device>(h.bytes));
  check(env, r, (std::string("release of a ") + kindNames[static_cast<int>(h.kind)]).c_str());
  return env.Undefined();
}

Napi::Value Live(const Napi::CallbackInfo& info) {
  auto out = Napi::Object::New(info.Env());
  size_t counts[8] = {};
  double bytes = 0;
  for (const auto& [id, h] : handles) {
    counts[static_cast<int>(h.kind)]++;
    if (h.kind == Kind::Memory) bytes += static_cast<double>(h.bytes);
  }
  for (int k = 0; k < 8; k++) out[kindNames[k]] = static_cast<double>(counts[k]);
  out["device bytes"] = bytes;
  return out;
}

}  // namespace

bool Driver::open() {
  if (library.loaded() && missing.empty()) return true;
  if (!library.loaded() && !library.open({"libcuda.so.1", "libcuda.so", "/usr/local/nvidia/lib64/libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"})) return false;
  missing.clear();
#define PARTITA_FIND(name, symbol, args)                                               \
  name = reinterpret_cast<cuda::Result(*) args>(library.find(symbol));                 \
  if (name == nullptr && missing.empty()) missing = symbol;
  PARTITA_CUDA_FUNCTIONS(PARTITA_FIND)
#undef PARTITA_FIND
  return missing.empty();
}

std::string Driver::describe(cuda::Result r) const {
  const char *name = nullptr, *text = nullptr;
  if (GetErrorName != nullptr) GetErrorName(r, &name);
  if (GetErrorString != nullptr) GetErrorString(r, &text);
  return std::string(name != nullptr ? name : "CUDA error " + std::to_string(r)) + (text != nullptr ? std::string(": ") + text : "");
}

Driver& driver() {
  static Driver instance;
  return instance;
}

Napi::Error nativeError(Napi::Env env, const std::string& call, int status, const std::string& native) {
  auto error = Napi::Error::New(env, call + ": " + native);
  error.Value()["call"] = Napi::String::New(env, call);
  error.Value()["status"] = Napi::Number::New(env, status);
  error.Value()["native"] = Napi::String::New(env, native);
  return error;
}

void check(Napi::Env env, cuda::Result r, const char* call) {
  if (r != 0) throw nativeError(env, call, r, driver().describe(r));
}

void registerDriver(Napi::Env env, Napi::Object exports) {
  const std::pair<const char*, Napi::Value (*)(const Napi::CallbackInfo&)> table[] = {
      {"open", Open}, {"deviceInfo", DeviceInfo}, {"contextCreate", ContextCreate}, {"memoryInfo", MemoryInfo}, {"moduleLoad", ModuleLoad}, {"functionGet", FunctionGet},
      {"memAlloc", MemAlloc}, {"memAddress", MemAddress}, {"hostAlloc", HostAlloc}, {"upload", Upload}, {"download", Download}, {"fill", Fill}, {"streamCreate", StreamCreate},
      {"eventCreate", EventCreate}, {"eventRecord", EventRecord}, {"eventElapsed", EventElapsed}, {"launch", Launch}, {"captureBegin", CaptureBegin}, {"captureEnd", CaptureEnd},
      {"graphLaunch", GraphLaunch}, {"execute", Execute}, {"synchronize", Synchronize}, {"tensorMapTiled", TensorMapTiled}, {"tensorMapIm2col", TensorMapIm2col},
      {"release", Release}, {"live", Live},
  };
  for (const auto& [name, function] : table) exports[name] = Napi::Function::New(env, function, name);
}
