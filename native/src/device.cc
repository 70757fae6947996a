// The driver, devices, contexts, modules and functions.
#include <mutex>
#include <vector>

#include "driver.h"
#include "state.h"

namespace {

std::mutex opening;

void needReady(Napi::Env env) {
  if (!driver().ready()) throw Napi::Error::New(env, "open has not succeeded");
}

// open(libraries: string[]): { version, devices, library }. An error's `missing` names the function an old driver lacks.
Napi::Value Open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::vector<std::string> names;
  const auto list = array(env, info[0], "libraries");
  for (uint32_t i = 0; i < list.Length(); i++) names.push_back(text(env, list.Get(i), "a library"));
  const std::lock_guard<std::mutex> lock(opening);
  Driver& d = driver();
  if (!d.open(names)) {
    if (!d.library.loaded()) throw nativeError(env, "dlopen", -1, d.library.error());
    auto error = nativeError(env, "dlsym", -1, d.library.path() + " has no " + d.missing);
    error.Value()["missing"] = Napi::String::New(env, d.missing);
    throw error;
  }
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

cuda::Device deviceAt(Napi::Env env, const Napi::Value& ordinal) {
  needReady(env);
  cuda::Device device = 0;
  check(env, driver().DeviceGet(&device, static_cast<int>(number(env, ordinal, "device", 1 << 20))), "cuDeviceGet");
  return device;
}

Napi::Value DeviceInfo(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const cuda::Device device = deviceAt(env, info[0]);
  Driver& d = driver();
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
  char bus[32] = {};
  if (d.DeviceGetPCIBusId != nullptr && d.DeviceGetPCIBusId(bus, sizeof bus - 1, device) == 0) out["bus"] = std::string(bus);
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

// contextCreate(ordinal): a handle on the device's primary context.
Napi::Value ContextCreate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const cuda::Device device = deviceAt(env, info[0]);
  cuda::Context c = nullptr;
  check(env, driver().PrimaryCtxRetain(&c, device), "cuDevicePrimaryCtxRetain");
  return result(env, state(env).keep(Kind::Context, 0, reinterpret_cast<uintptr_t>(c), static_cast<uint64_t>(device)));
}

Napi::Value MemoryInfo(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  Current current(env, contextOf(s, s.get(env, info[0], Kind::Context)));
  size_t free = 0, total = 0;
  check(env, driver().MemGetInfo(&free, &total), "cuMemGetInfo");
  auto out = Napi::Object::New(env);
  out["freeBytes"] = static_cast<double>(free);
  out["totalBytes"] = static_cast<double>(total);
  return out;
}

// moduleLoad(context, cubin)
Napi::Value ModuleLoad(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  const Handle& context = s.get(env, info[0], Kind::Context);
  const Bytes image = bytesOf(env, info[1]);
  if (image.length == 0) throw Napi::RangeError::New(env, "an empty image is no module");
  // cuModuleLoadData reads text up to a terminating zero, so the copy ends in one whatever the image is.
  std::vector<uint8_t> copy(image.data, image.data + image.length);
  copy.push_back(0);
  Current current(env, contextOf(s, context));
  cuda::Module m = nullptr;
  check(env, driver().ModuleLoadData(&m, copy.data()), "cuModuleLoadData");
  return result(env, s.keep(Kind::Module, context.id, reinterpret_cast<uintptr_t>(m)));
}

// functionGet(module, name, dynamicSharedBytes): { handle, registers, sharedBytes, localBytes, maxThreads, parameters? }.
// `parameters`: [offset, bytes] of each, where the driver can tell.
Napi::Value FunctionGet(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  const Handle& module = s.get(env, info[0], Kind::Module);
  const std::string name = text(env, info[1], "name");
  const int dynamicShared = static_cast<int>(number(env, info[2], "dynamic shared bytes", 1 << 20));
  Driver& d = driver();
  Current current(env, contextOf(s, module));
  cuda::Function f = nullptr;
  check(env, d.ModuleGetFunction(&f, as<cuda::Module>(module), name.c_str()), "cuModuleGetFunction " + name);
  // Static and dynamic shared memory count together towards the 48 KiB above which a kernel must opt in.
  if (dynamicShared > 0) check(env, d.FuncSetAttribute(f, cuda::kFnMaxDynamicShared, dynamicShared), "cuFuncSetAttribute " + name);
  auto attribute = [&](int which) {
    int value = 0;
    check(env, d.FuncGetAttribute(&value, which, f), "cuFuncGetAttribute");
    return value;
  };
  auto out = Napi::Object::New(env);
  out["registers"] = attribute(cuda::kFnRegisters);
  out["sharedBytes"] = attribute(cuda::kFnSharedBytes);
  out["localBytes"] = attribute(cuda::kFnLocalBytes);
  out["maxThreads"] = attribute(cuda::kFnMaxThreads);
  if (d.FuncGetParamInfo != nullptr) {
    auto parameters = Napi::Array::New(env);
    for (uint32_t i = 0; i < 4096; i++) {
      size_t offset = 0, bytes = 0;
      // The call fails for the first index past the last parameter: there is no other way to count them.
      if (d.FuncGetParamInfo(f, i, &offset, &bytes) != 0) break;
      auto one = Napi::Array::New(env, 2);
      one.Set(0u, static_cast<double>(offset));
      one.Set(1u, static_cast<double>(bytes));
      parameters.Set(i, one);
    }
    out["parameters"] = parameters;
  }
  out["handle"] = static_cast<double>(s.keep(Kind::Function, module.context, reinterpret_cast<uintptr_t>(f), 0, module.id).id);
  return out;
}

}  // namespace

void registerDevice(Napi::Env env, Napi::Object exports) {
  exports["open"] = Napi::Function::New(env, Open, "open");
  exports["deviceInfo"] = Napi::Function::New(env, DeviceInfo, "deviceInfo");
  exports["contextCreate"] = Napi::Function::New(env, ContextCreate, "contextCreate");
  exports["memoryInfo"] = Napi::Function::New(env, MemoryInfo, "memoryInfo");
  exports["moduleLoad"] = Napi::Function::New(env, ModuleLoad, "moduleLoad");
  exports["functionGet"] = Napi::Function::New(env, FunctionGet, "functionGet");
}
