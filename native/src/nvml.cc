// NVML behind dlopen: energy, power and memory of a GPU, for benchmarks. What a GPU or a container does not tell comes back as the reason.
#include <mutex>
#include <string>
#include <vector>

#include "driver.h"
#include "state.h"

namespace {

using Status = int;  // nvmlReturn_t; 0 is success
struct DeviceT;
using NvmlDevice = DeviceT*;
struct MemoryV1 {
  unsigned long long total, free, used;
};

struct Nvml {
  Library library;
  std::string missing;
  bool ready = false;
  Status (*Init)() = nullptr;
  const char* (*ErrorString)(Status) = nullptr;
  Status (*DeviceByBus)(const char*, NvmlDevice*) = nullptr;
  // Each of these may be absent: the others serve then.
  Status (*TotalEnergy)(NvmlDevice, unsigned long long*) = nullptr;
  Status (*PowerUsage)(NvmlDevice, unsigned*) = nullptr;
  Status (*MemoryInfo)(NvmlDevice, MemoryV1*) = nullptr;
};

std::mutex opening;

Nvml& nvml() {
  // Never destroyed, as the driver's table.
  static Nvml& instance = *new Nvml;
  return instance;
}

template <class F>
void find(Nvml& n, F& f, const char* symbol, bool needed) {
  f = reinterpret_cast<F>(n.library.find(symbol));
  if (needed && f == nullptr && n.missing.empty()) n.missing = symbol;
}

std::string describe(Status r) {
  const char* text = nvml().ErrorString != nullptr ? nvml().ErrorString(r) : nullptr;
  return text != nullptr ? text : "NVML status " + std::to_string(r);
}

// nvmlOpen(libraries: string[]): { library }. May be called again.
Napi::Value NvmlOpen(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::vector<std::string> names;
  const auto list = array(env, info[0], "libraries");
  for (uint32_t i = 0; i < list.Length(); i++) names.push_back(text(env, list.Get(i), "a library"));
  const std::lock_guard<std::mutex> lock(opening);
  Nvml& n = nvml();
  if (!n.ready) {
    if (!n.library.loaded() && !n.library.open(names)) throw nativeError(env, "dlopen", -1, n.library.error());
    n.missing.clear();
    find(n, n.Init, "nvmlInit_v2", true);
    find(n, n.ErrorString, "nvmlErrorString", true);
    find(n, n.DeviceByBus, "nvmlDeviceGetHandleByPciBusId_v2", true);
    find(n, n.TotalEnergy, "nvmlDeviceGetTotalEnergyConsumption", false);
    find(n, n.PowerUsage, "nvmlDeviceGetPowerUsage", false);
    find(n, n.MemoryInfo, "nvmlDeviceGetMemoryInfo", false);
    if (!n.missing.empty()) throw nativeError(env, "dlsym", -1, n.library.path() + " has no " + n.missing);
    const Status r = n.Init();
    if (r != 0) throw nativeError(env, "nvmlInit", r, describe(r));
    n.ready = true;
  }
  auto out = Napi::Object::New(env);
  out["library"] = n.library.path();
  return out;
}

// nvmlRead(bus: string): { energyMillijoules?, powerMilliwatts?, usedBytes?, refused: { [figure]: reason } } of the GPU at that PCI address.
Napi::Value NvmlRead(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Nvml& n = nvml();
  if (!n.ready) throw Napi::Error::New(env, "nvmlOpen has not succeeded");
  NvmlDevice device = nullptr;
  const Status found = n.DeviceByBus(text(env, info[0], "bus").c_str(), &device);
  if (found != 0) throw nativeError(env, "nvmlDeviceGetHandleByPciBusId", found, describe(found));
  auto out = Napi::Object::New(env);
  auto refused = Napi::Object::New(env);
  auto told = [&](const char* name, bool known, Status r, double value) {
    if (known && r == 0)
      out[name] = value;
    else
      refused[name] = known ? describe(r) : std::string("NVML has no such function");
  };
  unsigned long long energy = 0;
  const Status e = n.TotalEnergy != nullptr ? n.TotalEnergy(device, &energy) : 0;
  told("energyMillijoules", n.TotalEnergy != nullptr, e, static_cast<double>(energy));
  unsigned power = 0;
  const Status p = n.PowerUsage != nullptr ? n.PowerUsage(device, &power) : 0;
  told("powerMilliwatts", n.PowerUsage != nullptr, p, power);
  MemoryV1 memory = {};
  const Status m = n.MemoryInfo != nullptr ? n.MemoryInfo(device, &memory) : 0;
  told("usedBytes", n.MemoryInfo != nullptr, m, static_cast<double>(memory.used));
  out["refused"] = refused;
  return out;
}

}  // namespace

void registerNvml(Napi::Env env, Napi::Object exports) {
  exports["nvmlOpen"] = Napi::Function::New(env, NvmlOpen, "nvmlOpen");
  exports["nvmlRead"] = Napi::Function::New(env, NvmlRead, "nvmlRead");
}
