// Streams, kernel launches and the graphs captured from them.
#include <cstring>

#include "driver.h"
#include "state.h"

namespace {

Napi::Value StreamCreate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  const Handle& context = s.get(env, info[0], Kind::Context);
  Current current(env, contextOf(s, context));
  cuda::Stream stream = nullptr;
  check(env, driver().StreamCreate(&stream, cuda::kStreamNonBlocking), "cuStreamCreate");
  return result(env, s.keep(Kind::Stream, context.id, reinterpret_cast<uintptr_t>(stream)));
}

struct Three {
  unsigned x, y, z;
};
Three three(Napi::Env env, const Napi::Value& v, const char* what) {
  const auto a = array(env, v, what);
  if (a.Length() != 3) throw Napi::RangeError::New(env, std::string(what) + " must have three numbers");
  auto at = [&](uint32_t i) { return static_cast<unsigned>(number(env, a.Get(i), what, 0x7fffffff)); };
  return {at(0), at(1), at(2)};
}

// launch(stream, function, grid, block, sharedBytes, arguments, cluster | undefined, dependent): `arguments` is the packed parameter buffer.
Napi::Value Launch(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  const Handle& stream = s.get(env, info[0], Kind::Stream);
  const Handle& function = s.get(env, info[1], Kind::Function);
  const Three grid = three(env, info[2], "grid"), block = three(env, info[3], "block");
  const auto shared = static_cast<unsigned>(number(env, info[4], "shared bytes", 1 << 20));
  const Bytes arguments = bytesOf(env, info[5]);
  // Tensor maps in the parameter buffer want 64-byte alignment.
  alignas(64) uint8_t packed[4096];
  if (arguments.length > sizeof packed) throw Napi::RangeError::New(env, "kernel arguments take more than 4096 bytes");
  if (arguments.length > 0) std::memcpy(packed, arguments.data, arguments.length);
  size_t size = arguments.length;
  void* extra[] = {cuda::kParamBufferPointer, packed, cuda::kParamBufferSize, &size, cuda::kParamEnd};
  cuda::LaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (!info[6].IsUndefined()) {
    const Three cluster = three(env, info[6], "cluster");
    attributes[count].id = cuda::kAttrClusterDimension;
    attributes[count].value.clusterDim = {cluster.x, cluster.y, cluster.z};
    count++;
  }
  if (info[7].ToBoolean().Value()) {
    attributes[count].id = cuda::kAttrProgrammaticStreamSerialization;
    attributes[count].value.programmaticStreamSerializationAllowed = 1;
    count++;
  }
  const cuda::LaunchConfig config{grid.x, grid.y, grid.z, block.x, block.y, block.z, shared, as<cuda::Stream>(stream), count == 0 ? nullptr : attributes, count};
  Current current(env, contextOf(s, stream));
  check(env, driver().LaunchKernelEx(&config, as<cuda::Function>(function), nullptr, size == 0 ? nullptr : extra), "cuLaunchKernelEx");
  return env.Undefined();
}

Napi::Value CaptureBegin(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  const Handle& stream = s.get(env, info[0], Kind::Stream);
  Current current(env, contextOf(s, stream));
  check(env, driver().StreamBeginCapture(as<cuda::Stream>(stream), cuda::kCaptureThreadLocal), "cuStreamBeginCapture");
  return env.Undefined();
}

// captureEnd(stream): the captured graph, ready to launch and already on the device.
Napi::Value CaptureEnd(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  const Handle& stream = s.get(env, info[0], Kind::Stream);
  Driver& d = driver();
  Current current(env, contextOf(s, stream));
  cuda::Graph graph = nullptr;
  const cuda::Result ended = d.StreamEndCapture(as<cuda::Stream>(stream), &graph);
  if (ended != 0) {
    if (graph != nullptr) d.GraphDestroy(graph);
    check(env, ended, "cuStreamEndCapture");
  }
  cuda::GraphExec exec = nullptr;
  const cuda::Result made = d.GraphInstantiate(&exec, graph, 0);
  d.GraphDestroy(graph);
  check(env, made, "cuGraphInstantiate");
  const cuda::Result uploaded = d.GraphUpload(exec, as<cuda::Stream>(stream));
  if (uploaded != 0) {
    d.GraphExecDestroy(exec);
    check(env, uploaded, "cuGraphUpload");
  }
  return result(env, s.keep(Kind::Graph, stream.context, reinterpret_cast<uintptr_t>(exec)));
}

}  // namespace

void registerLaunch(Napi::Env env, Napi::Object exports) {
  exports["streamCreate"] = Napi::Function::New(env, StreamCreate, "streamCreate");
  exports["launch"] = Napi::Function::New(env, Launch, "launch");
  exports["captureBegin"] = Napi::Function::New(env, CaptureBegin, "captureBegin");
  exports["captureEnd"] = Napi::Function::New(env, CaptureEnd, "captureEnd");
}
