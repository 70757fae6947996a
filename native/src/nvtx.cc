// NVTX ranges without NVTX's headers. Tools (Nsight Systems, Compute) set NVTX_INJECTION64_PATH, or are in the process already: their library is handed
// the tables that NVTX's own headers would hand it, declared here from the published binary interface of NVTX 2 and 3. Where there is no tool, the
// library of NVTX 2 serves, if it is installed; else there is nobody to tell, and ranges cost nothing.
#include <dlfcn.h>

#include <cstdlib>
#include <mutex>
#include <string>

#include "driver.h"
#include "state.h"

namespace {

using Function = void (*)();
using RangeStart = uint64_t (*)(const char*);
using RangeEnd = void (*)(uint64_t);

// Slots of the modules CORE and CORE2. A tool writes its functions into them; the order is part of the interface.
constexpr unsigned kCore = 16, kCore2 = 16;
constexpr unsigned kRangeStartA = 5, kRangeEnd = 7;
Function core[kCore], core2[kCore2];
Function* coreTable[kCore + 1];
Function* core2Table[kCore2 + 1];

int moduleTable(int module, Function*** table, unsigned* size) {
  switch (module) {
    case 1: *table = coreTable; if (size != nullptr) *size = kCore; return 1;
    case 5: *table = core2Table; if (size != nullptr) *size = kCore2; return 1;
    // CUDA, OpenCL, the runtime and synchronisation: nothing of theirs is called here.
    default: return 0;
  }
}
struct Callbacks {
  size_t size;
  int (*moduleTable)(int, Function***, unsigned*);
};
struct VersionInfo {
  size_t size;
  uint32_t version, reserved;
  void (*setInjectionVersion)(uint32_t);
};
const Callbacks callbacks = {sizeof callbacks, moduleTable};
const VersionInfo versionInfo = {sizeof versionInfo, 3, 0, [](uint32_t) {}};
const void* exportTable(uint32_t id) { return id == 1 ? static_cast<const void*>(&callbacks) : id == 3 ? &versionInfo : nullptr; }

struct Nvtx {
  std::mutex opening;
  std::string way;  // how ranges are told; empty where nobody listens
  std::string why;
  Library library;
  RangeStart start = nullptr;
  RangeEnd end = nullptr;

  bool inject(void* entry, const std::string& from) {
    for (unsigned i = 0; i < kCore; i++) coreTable[i] = &core[i];
    for (unsigned i = 0; i < kCore2; i++) core2Table[i] = &core2[i];
    using Initialize = int (*)(const void* (*)(uint32_t));
    if (reinterpret_cast<Initialize>(entry)(exportTable) == 0) {
      why = from + " refused to start";
      return false;
    }
    start = reinterpret_cast<RangeStart>(core[kRangeStartA]);
    end = reinterpret_cast<RangeEnd>(core[kRangeEnd]);
    if (start == nullptr || end == nullptr) {
      why = from + " takes no ranges";
      return false;
    }
    way = from;
    return true;
  }

  void open(const std::vector<std::string>& libraries) {
    const char* const path = std::getenv("NVTX_INJECTION64_PATH");
    constexpr const char* kEntry = "InitializeInjectionNvtx2";
    if (path != nullptr && *path != '\0') {
      if (!library.open({path})) {
        why = library.error();
        return;
      }
      void* const entry = library.find(kEntry);
      if (entry == nullptr) why = std::string(path) + " has no " + kEntry;
      else inject(entry, path);
      return;
    }
    if (void* const entry = dlsym(RTLD_DEFAULT, kEntry)) {
      inject(entry, "a tool in this process");
      return;
    }
    if (!library.open(libraries)) {
      why = "no tool asks for ranges (NVTX_INJECTION64_PATH is not set), and " + library.error();
      return;
    }
    start = reinterpret_cast<RangeStart>(library.find("nvtxRangeStartA"));
    end = reinterpret_cast<RangeEnd>(library.find("nvtxRangeEnd"));
    if (start == nullptr || end == nullptr) why = library.path() + " has no nvtxRangeStartA or nvtxRangeEnd";
    else way = library.path();
  }
};

Nvtx& nvtx() {
  static Nvtx& instance = *new Nvtx;
  return instance;
}

// nvtxOpen(libraries: string[]): { way }, or an error that says why nobody is told of ranges. The first call decides.
Napi::Value NvtxOpen(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::vector<std::string> names;
  const auto list = array(env, info[0], "libraries");
  for (uint32_t i = 0; i < list.Length(); i++) names.push_back(text(env, list.Get(i), "a library"));
  Nvtx& n = nvtx();
  const std::lock_guard<std::mutex> lock(n.opening);
  if (n.way.empty() && n.why.empty()) n.open(names);
  if (n.way.empty()) throw nativeError(env, "nvtxOpen", -1, n.why);
  auto out = Napi::Object::New(env);
  out["way"] = n.way;
  return out;
}

// nvtxStart(name): the range's number, for nvtxEnd. Ranges may overlap and end on other threads.
Napi::Value NvtxStart(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (nvtx().way.empty()) throw Napi::Error::New(env, "nvtxOpen has not succeeded");
  return Napi::BigInt::New(env, nvtx().start(text(env, info[0], "name").c_str()));
}
Napi::Value NvtxEnd(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (nvtx().way.empty()) throw Napi::Error::New(env, "nvtxOpen has not succeeded");
  if (!info[0].IsBigInt()) throw Napi::TypeError::New(env, "a range is a bigint that nvtxStart gave");
  bool lossless = false;
  nvtx().end(info[0].As<Napi::BigInt>().Uint64Value(&lossless));
  return env.Undefined();
}

}  // namespace

void registerNvtx(Napi::Env env, Napi::Object exports) {
  exports["nvtxOpen"] = Napi::Function::New(env, NvtxOpen, "nvtxOpen");
  exports["nvtxStart"] = Napi::Function::New(env, NvtxStart, "nvtxStart");
  exports["nvtxEnd"] = Napi::Function::New(env, NvtxEnd, "nvtxEnd");
}
