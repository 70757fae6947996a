// The addon's `tensorrt` object, and what its calls share: a task off the event loop, and how its failure becomes a JavaScript error.
#pragma once
#include <napi.h>

#include <memory>
#include <vector>

#include "../src/state.h"
#include "installation.h"

void registerTensorRt(Napi::Env env, Napi::Object exports);

namespace tensorrt {

void registerInstallation(Napi::Env env, Napi::Object exports);
void registerBuild(Napi::Env env, Napi::Object exports);
void registerEngine(Napi::Env env, Napi::Object exports);
void registerRefit(Napi::Env env, Napi::Object exports);
void registerRun(Napi::Env env, Napi::Object exports);

// What the parser said of a node, copied out of it.
struct Complaint {
  int32_t node, code;
  std::string name, op, text;
};
template <class P>
std::vector<Complaint> complaints(const P& parser) {
  const auto copy = [](const char* t) { return std::string(t != nullptr ? t : ""); };
  std::vector<Complaint> out;
  for (int32_t i = 0, n = parser.errors(); i < n; i++) {
    const ParserError e = parser.error(i);
    if (e.object != nullptr) out.push_back({e.node(), e.code(), copy(e.nodeName()), copy(e.nodeOperator()), copy(e.desc())});
  }
  return out;
}
Napi::Array toArray(Napi::Env env, const std::vector<Complaint>& list);
Napi::Array toArray(Napi::Env env, const Dims& dims);
Napi::Array toArray(Napi::Env env, const std::vector<std::string>& list);
std::string toText(const Dims& dims);
// At most eight dims, none beyond 2^48; throws otherwise. -1 is allowed where `open` is.
Dims dimsOf(Napi::Env env, const Napi::Value& v, const char* what);

// `call` failed: an error with `call`, `native`, `log`, `parser`, and `memory` where TensorRT said that there was none.
struct Failure {
  std::string call, text;
  std::vector<Complaint> parser;
};
Napi::Error toError(Napi::Env env, const Failure& failure, const Sink& sink);

// A model: bytes that JavaScript holds, or a path.
struct Model {
  const void* data = nullptr;
  size_t size = 0;
  std::string path;
};

// A call off the event loop. What it uses cannot be released before it settles; arrays it reads must stay as they are until then.
class Task : public Napi::AsyncWorker {
 public:
  Task(Napi::Env env, Installation& library, std::shared_ptr<Sink> sink) : Napi::AsyncWorker(env), library_(library), sink_(std::move(sink)), deferred_(Napi::Promise::Deferred::New(env)) {}
  ~Task() override { settle(); }
  void use(Handle& h);
  void hold(const Napi::Value& v) { held_.push_back(Napi::Persistent(v.As<Napi::Object>())); }
  // The GPU whose primary context is current meanwhile; undefined for none.
  void on(const Napi::Value& context);
  void on(cuda::Context context) { context_ = context; }
  Model model(const Napi::Value& v);
  static Napi::Promise start(std::unique_ptr<Task> task);

 protected:
  // On a thread of the pool; false after `fail`.
  virtual bool perform() = 0;
  virtual Napi::Value value() { return Env().Undefined(); }
  bool fail(std::string call, std::string text, std::vector<Complaint> parser = {}) {
    failure_ = {std::move(call), std::move(text), std::move(parser)};
    return false;
  }
  bool driverFailed(cuda::Result status, const char* call);
  Installation& library_;
  std::shared_ptr<Sink> sink_;
  cuda::Context context_ = nullptr;

 private:
  void Execute() override;
  void OnOK() override;
  void OnError(const Napi::Error& error) override;
  void settle();
  Napi::Promise::Deferred deferred_;
  std::vector<uint64_t> used_;
  std::vector<Napi::ObjectReference> held_;
  bool succeeded_ = false;
  Failure failure_;
};

}  // namespace tensorrt
