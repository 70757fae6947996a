#include "driver.h"

bool Driver::open(const std::vector<std::string>& names) {
  if (!library.loaded() && !library.open(names)) return false;
  missing.clear();
#define PARTITA_FIND(name, symbol, args)                               \
  name = reinterpret_cast<cuda::Result(*) args>(library.find(symbol)); \
  if (name == nullptr && missing.empty()) missing = symbol;
  PARTITA_CUDA_FUNCTIONS(PARTITA_FIND)
#undef PARTITA_FIND
  FuncGetParamInfo = reinterpret_cast<decltype(FuncGetParamInfo)>(library.find("cuFuncGetParamInfo"));
  DeviceGetPCIBusId = reinterpret_cast<decltype(DeviceGetPCIBusId)>(library.find("cuDeviceGetPCIBusId"));
  EventRecordWithFlags = reinterpret_cast<decltype(EventRecordWithFlags)>(library.find("cuEventRecordWithFlags"));
  return missing.empty();
}

std::string Driver::describe(cuda::Result r) const {
  const char *name = nullptr, *text = nullptr;
  if (GetErrorName != nullptr) GetErrorName(r, &name);
  if (GetErrorString != nullptr) GetErrorString(r, &text);
  return std::string(name != nullptr ? name : "CUDA error " + std::to_string(r)) + (text != nullptr ? std::string(": ") + text : "");
}

Driver& driver() {
  // Never destroyed: work that outlives the environment may still call it while the process ends.
  static Driver& instance = *new Driver;
  return instance;
}

Napi::Error nativeError(Napi::Env env, const std::string& call, int status, const std::string& native) {
  auto error = Napi::Error::New(env, call + ": " + native);
  error.Value()["call"] = Napi::String::New(env, call);
  error.Value()["status"] = Napi::Number::New(env, status);
  error.Value()["native"] = Napi::String::New(env, native);
  return error;
}

void check(Napi::Env env, cuda::Result r, const std::string& call) {
  if (r != 0) throw nativeError(env, call, r, driver().describe(r));
}
