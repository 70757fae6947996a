// NVRTC behind dlopen. Compilation runs off the event loop; the compiler's log comes back whether or not it succeeds.
#include <memory>
#include <mutex>
#include <vector>

#include "driver.h"
#include "state.h"

namespace {

struct ProgramT;
using Program = ProgramT*;

struct Nvrtc {
  Library builtins, library;
  std::string missing;
  int (*Version)(int*, int*) = nullptr;
  const char* (*GetErrorString)(int) = nullptr;
  int (*CreateProgram)(Program*, const char*, const char*, int, const char* const*, const char* const*) = nullptr;
  int (*DestroyProgram)(Program*) = nullptr;
  int (*CompileProgram)(Program, int, const char* const*) = nullptr;
  int (*GetCubinSize)(Program, size_t*) = nullptr;
  int (*GetCubin)(Program, char*) = nullptr;
  int (*GetLogSize)(Program, size_t*) = nullptr;
  int (*GetLog)(Program, char*) = nullptr;
  int (*NumArchs)(int*) = nullptr;
  int (*Archs)(int*) = nullptr;

  template <class F>
  void find(F& f, const char* symbol) {
    f = reinterpret_cast<F>(library.find(symbol));
    if (f == nullptr && missing.empty()) missing = symbol;
  }
};

std::mutex opening;

Nvrtc& nvrtc() {
  // Never destroyed: a compilation may still run while the process ends.
  static Nvrtc& instance = *new Nvrtc;
  return instance;
}

void checkNvrtc(Napi::Env env, int r, const char* call) {
  if (r != 0) throw nativeError(env, call, r, nvrtc().GetErrorString(r));
}

// nvrtcOpen(builtins: string[], libraries: string[]): { version: [major, minor], archs: number[] }. The builtins go in first and globally:
// NVRTC looks them up by soname when it compiles, and a folder outside the loader's path would not be searched.
Napi::Value NvrtcOpen(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Nvrtc& n = nvrtc();
  auto names = [&](size_t at) {
    std::vector<std::string> out;
    const auto a = array(env, info[at], "libraries");
    for (uint32_t i = 0; i < a.Length(); i++) out.push_back(text(env, a.Get(i), "a library"));
    return out;
  };
  const std::lock_guard<std::mutex> lock(opening);
  if (!n.library.loaded()) {
    n.builtins.open(names(0), true);
    if (!n.library.open(names(1))) throw nativeError(env, "dlopen", -1, n.library.error());
  }
  n.missing.clear();
  n.find(n.Version, "nvrtcVersion");
  n.find(n.GetErrorString, "nvrtcGetErrorString");
  n.find(n.CreateProgram, "nvrtcCreateProgram");
  n.find(n.DestroyProgram, "nvrtcDestroyProgram");
  n.find(n.CompileProgram, "nvrtcCompileProgram");
  n.find(n.GetCubinSize, "nvrtcGetCUBINSize");
  n.find(n.GetCubin, "nvrtcGetCUBIN");
  n.find(n.GetLogSize, "nvrtcGetProgramLogSize");
  n.find(n.GetLog, "nvrtcGetProgramLog");
  n.find(n.NumArchs, "nvrtcGetNumSupportedArchs");
  n.find(n.Archs, "nvrtcGetSupportedArchs");
  if (!n.missing.empty()) throw nativeError(env, "dlsym", -1, n.library.path() + " has no " + n.missing);
  int major = 0, minor = 0, count = 0;
  checkNvrtc(env, n.Version(&major, &minor), "nvrtcVersion");
  checkNvrtc(env, n.NumArchs(&count), "nvrtcGetNumSupportedArchs");
  std::vector<int> archs(static_cast<size_t>(count));
  checkNvrtc(env, n.Archs(archs.data()), "nvrtcGetSupportedArchs");
  auto out = Napi::Object::New(env);
  auto version = Napi::Array::New(env, 2);
  version.Set(0u, major);
  version.Set(1u, minor);
  auto list = Napi::Array::New(env, archs.size());
  for (uint32_t i = 0; i < archs.size(); i++) list.Set(i, archs[i]);
  out["version"] = version;
  out["archs"] = list;
  out["library"] = n.library.path();
  return out;
}

class Compilation : public Napi::AsyncWorker {
 public:
  Compilation(Napi::Env env, std::string source, std::string name, std::vector<std::string> options)
      : Napi::AsyncWorker(env), deferred(Napi::Promise::Deferred::New(env)), source_(std::move(source)), name_(std::move(name)), options_(std::move(options)) {}
  Napi::Promise::Deferred deferred;

 protected:
  void Execute() override {
    Nvrtc& n = nvrtc();
    Program p = nullptr;
    status_ = n.CreateProgram(&p, source_.c_str(), name_.c_str(), 0, nullptr, nullptr);
    if (status_ != 0) return;
    std::vector<const char*> options;
    for (const auto& o : options_) options.push_back(o.c_str());
    status_ = n.CompileProgram(p, static_cast<int>(options.size()), options.data());
    size_t size = 0;
    if (n.GetLogSize(p, &size) == 0 && size > 1) {
      log_.resize(size);
      n.GetLog(p, log_.data());
      log_.resize(size - 1);
    }
    if (status_ == 0 && (status_ = n.GetCubinSize(p, &size)) == 0) {
      cubin_.resize(size);
      status_ = n.GetCubin(p, cubin_.data());
    }
    n.DestroyProgram(&p);
  }
  void OnError(const Napi::Error& error) override {
    whileItCan([&] { deferred.Reject(error.Value()); });
  }
  void OnOK() override {
    const Napi::Env env = Env();
    whileItCan([&] {
      if (status_ != 0) {
        auto error = nativeError(env, "nvrtcCompileProgram", status_, nvrtc().GetErrorString(status_));
        error.Value()["log"] = Napi::String::New(env, log_);
        deferred.Reject(error.Value());
        return;
      }
      auto out = Napi::Object::New(env);
      out["cubin"] = Napi::Buffer<char>::Copy(env, cubin_.data(), cubin_.size());
      out["log"] = log_;
      deferred.Resolve(out);
    });
  }

 private:
  std::string source_, name_;
  std::vector<std::string> options_;
  int status_ = 0;
  std::string log_;
  std::vector<char> cubin_;
};

// nvrtcCompile(source, name, options): Promise<{ cubin, log }>; a failure carries the log.
Napi::Value NvrtcCompile(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (nvrtc().CompileProgram == nullptr || !nvrtc().missing.empty()) throw Napi::Error::New(env, "nvrtcOpen has not succeeded");
  std::vector<std::string> options;
  const auto list = array(env, info[2], "options");
  for (uint32_t i = 0; i < list.Length(); i++) options.push_back(text(env, list.Get(i), "an option"));
  auto worker = std::make_unique<Compilation>(env, text(env, info[0], "source"), text(env, info[1], "name"), std::move(options));
  const auto promise = worker->deferred.Promise();
  worker->Queue();
  worker.release();
  return promise;
}

}  // namespace

void registerNvrtc(Napi::Env env, Napi::Object exports) {
  exports["nvrtcOpen"] = Napi::Function::New(env, NvrtcOpen, "nvrtcOpen");
  exports["nvrtcCompile"] = Napi::Function::New(env, NvrtcCompile, "nvrtcCompile");
}
