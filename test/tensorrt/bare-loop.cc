// A plan run from C++ with nothing of Partita's between: what a session of it is measured against. One JSON line on stdout.
//   bare-loop --library libnvinfer.so.11 --driver libcuda.so.1 --plan engine.plan --warmup 20 --runs 200 [--input NAME=DIMS=FILE]...
// DIMS like 1x3x224x224; FILE holds the raw elements. table.h has the slots of the library's family, made of native/tensorrt/slots.txt; no header of
// NVIDIA's is used. Times are of a CUDA graph of enqueueV3 where one can be captured: on the device, and from the host with the copies of inputs and
// outputs in page-locked memory.
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "table.h"

namespace {

struct Dims {
  int32_t count = 0;
  int64_t d[8] = {};
};
struct Interface {
  const char* kind;
  int32_t major, minor;
};

[[noreturn]] void fail(const std::string& what) {
  fprintf(stderr, "bare-loop: %s\n", what.c_str());
  _Exit(1);
}
void say(int32_t severity, const char* text) {
  if (severity <= 1) fprintf(stderr, "TensorRT: %s\n", text != nullptr ? text : "");
}
// The logger's own vtable: `log` alone, or behind the four slots of a versioned interface.
#if SLOT_Logger_log == 0
struct Logger {
  virtual void log(int32_t severity, const char* text) noexcept { say(severity, text); }
  virtual ~Logger() = default;
};
#else
struct Logger {
  virtual int32_t language() const noexcept { return 0; }
  virtual Interface interface() const noexcept { return {"ILogger", 1, 0}; }
  virtual ~Logger() = default;
  virtual void log(int32_t severity, const char* text) noexcept { say(severity, text); }
};
#endif

// Through the implementation's vtable.
template <class R, class... A>
R call(void* object, int slot, A... a) {
  void* const inner = static_cast<void**>(object)[1];
  return reinterpret_cast<R (*)(void*, A...)>((*static_cast<void***>(inner))[slot])(inner, a...);
}
template <class F>
F symbol(void* library, const char* name) {
  void* const found = dlsym(library, name);
  if (found == nullptr) fail(std::string("no ") + name);
  return reinterpret_cast<F>(found);
}
void* open(const std::string& path) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) fail(dlerror());
  return library;
}
std::string bytesOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

void* cuda = nullptr;
template <class... A>
void must(const char* name, A... a) {
  const int status = symbol<int (*)(A...)>(cuda, name)(a...);
  if (status != 0) fail(std::string(name) + " gave " + std::to_string(status));
}

struct Port {
  std::string name;
  bool input;
  uint64_t address = 0, bytes = 0;
  void* host = nullptr;
};
double now() { return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  std::string libraryPath, driverPath, planPath;
  int warmup = 20, runs = 200;
  struct Given {
    Dims dims;
    std::string file;
  };
  std::vector<std::pair<std::string, Given>> given;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i], value = argv[i + 1];
    if (key == "--library") libraryPath = value;
    else if (key == "--driver") driverPath = value;
    else if (key == "--plan") planPath = value;
    else if (key == "--warmup") warmup = atoi(value.c_str());
    else if (key == "--runs") runs = std::max(1, atoi(value.c_str()));
    else if (key == "--input") {
      // From behind: names have any letters.
      const size_t file = value.rfind('='), dims = value.rfind('=', file - 1);
      if (file == std::string::npos || dims == std::string::npos) fail("--input NAME=DIMS=FILE");
      Given g{{}, value.substr(file + 1)};
      const std::string list = value.substr(dims + 1, file - dims - 1);
      for (const char* at = list.c_str(); *at != 0 && g.dims.count < 8; at += *at == 'x') g.dims.d[g.dims.count++] = strtoll(at, const_cast<char**>(&at), 10);
      given.push_back({value.substr(0, dims), g});
    } else fail("what is " + key);
  }
  cuda = open(driverPath);
  void* context = nullptr;
  void* stream = nullptr;
  must("cuInit", 0u);
  must("cuDevicePrimaryCtxRetain", &context, 0);
  must("cuCtxPushCurrent_v2", context);
  must("cuStreamCreate", &stream, 1u);

  void* const library = open(libraryPath);
  const int32_t version = symbol<int32_t (*)()>(library, "getInferLibVersion")();
  static Logger logger;
  void* const runtime = symbol<void* (*)(void*, int32_t)>(library, "createInferRuntime_INTERNAL")(&logger, version);
  if (runtime == nullptr) fail("no runtime");
  const std::string plan = bytesOf(planPath);
  void* const engine = call<void*>(runtime, SLOT_Runtime_deserializeCudaEngine, static_cast<const void*>(plan.data()), plan.size());
  if (engine == nullptr) fail("the plan is refused");
  void* const execution = call<void*>(engine, SLOT_CudaEngine_createExecutionContext, int32_t{0});
  if (execution == nullptr) fail("no execution context");

  constexpr int bits[] = {32, 16, 8, 32, 8, 8, 8, 16, 64, 4, 4, 8};
  std::vector<Port> ports;
  for (int32_t i = 0, n = call<int32_t>(engine, SLOT_CudaEngine_getNbIOTensors); i < n; i++) {
    const char* const name = call<const char*>(engine, SLOT_CudaEngine_getIOTensorName, i);
    ports.push_back({name, call<int32_t>(engine, SLOT_CudaEngine_getTensorIOMode, name) == 1});
    if (!ports.back().input) continue;
    const auto found = std::find_if(given.begin(), given.end(), [&](const auto& g) { return g.first == name; });
    if (found == given.end()) fail(std::string("input ") + name + " is not given");
    if (!call<bool>(execution, SLOT_ExecutionContext_setInputShape, name, static_cast<const Dims*>(&found->second.dims))) fail(std::string("the dims of ") + name + " are refused");
  }
  if (call<int32_t>(execution, SLOT_ExecutionContext_inferShapes, int32_t{0}, static_cast<const char**>(nullptr)) != 0) fail("the dims do not go together");
  for (Port& p : ports) {
    const Dims dims = call<Dims>(execution, SLOT_ExecutionContext_getTensorShape, p.name.c_str());
    const int32_t type = call<int32_t>(engine, SLOT_CudaEngine_getTensorDataType, p.name.c_str());
    uint64_t count = 1;
    for (int32_t k = 0; k < dims.count; k++) {
      if (dims.d[k] < 0) fail("the dims of " + p.name + " depend on the data");
      count *= static_cast<uint64_t>(dims.d[k]);
    }
    p.bytes = (count * static_cast<uint64_t>(bits[type]) + 7) / 8;
    must("cuMemAlloc_v2", &p.address, static_cast<size_t>(std::max<uint64_t>(p.bytes, 256)));
    must("cuMemHostAlloc", &p.host, static_cast<size_t>(std::max<uint64_t>(p.bytes, 256)), 0u);
    if (p.input) {
      const std::string values = bytesOf(std::find_if(given.begin(), given.end(), [&](const auto& g) { return g.first == p.name; })->second.file);
      if (values.size() != p.bytes) fail("the file of " + p.name + " has " + std::to_string(values.size()) + " bytes, not " + std::to_string(p.bytes));
      memcpy(p.host, values.data(), values.size());
    }
    if (!call<bool>(execution, SLOT_ExecutionContext_setTensorAddress, p.name.c_str(), reinterpret_cast<void*>(static_cast<uintptr_t>(p.address)))) fail("no address for " + p.name);
  }

  const auto copy = [&](bool in) {
    for (const Port& p : ports)
      if (p.input == in && p.bytes > 0) {
        if (in) must("cuMemcpyHtoDAsync_v2", p.address, static_cast<const void*>(p.host), static_cast<size_t>(p.bytes), stream);
        else must("cuMemcpyDtoHAsync_v2", p.host, p.address, static_cast<size_t>(p.bytes), stream);
      }
  };
  const auto enqueue = [&] { return call<bool>(execution, SLOT_ExecutionContext_enqueueV3, stream); };
  const auto wait = [&] { must("cuStreamSynchronize", stream); };
  copy(true);
  if (!enqueue()) fail("enqueueV3 failed");
  wait();
  void *graph = nullptr, *replay = nullptr;
  must("cuStreamBeginCapture_v2", stream, 1);
  const bool captured = enqueue();
  const int ended = symbol<int (*)(void*, void**)>(cuda, "cuStreamEndCapture")(stream, &graph);
  if (captured && ended == 0) must("cuGraphInstantiateWithFlags", &replay, graph, 0ull);
  const auto once = [&] {
    if (replay != nullptr) must("cuGraphLaunch", replay, stream);
    else if (!enqueue()) fail("enqueueV3 failed");
  };
  void *begin = nullptr, *end = nullptr;
  must("cuEventCreate", &begin, 0u);
  must("cuEventCreate", &end, 0u);
  std::vector<double> device, host;
  for (int i = -warmup; i < runs; i++) {
    must("cuEventRecord", begin, stream);
    once();
    must("cuEventRecord", end, stream);
    must("cuEventSynchronize", end);
    float ms = 0;
    must("cuEventElapsedTime", &ms, begin, end);
    if (i >= 0) device.push_back(1000.0 * ms);
  }
  for (int i = -warmup; i < runs; i++) {
    const double start = now();
    copy(true);
    once();
    copy(false);
    wait();
    if (i >= 0) host.push_back(now() - start);
  }
  printf("{\"version\":%d,\"graph\":%s,\"runs\":%d,\"deviceUs\":%.3f,\"hostUs\":%.3f}\n", version, replay != nullptr ? "true" : "false", runs, median(device), median(host));
  fflush(stdout);
  // The library is not unloaded: its threads may still be at work.
  _Exit(0);
}
