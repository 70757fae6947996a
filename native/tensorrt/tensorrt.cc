#include "tensorrt.h"

#include <cmath>

#include "../src/driver.h"

namespace tensorrt {

Napi::Array toArray(Napi::Env env, const std::vector<Complaint>& list) {
  auto out = Napi::Array::New(env, list.size());
  for (uint32_t i = 0; i < list.size(); i++) {
    auto one = Napi::Object::New(env);
    one["node"] = list[i].node;
    one["code"] = list[i].code;
    one["nodeName"] = list[i].name;
    one["op"] = list[i].op;
    one["text"] = list[i].text;
    out.Set(i, one);
  }
  return out;
}

Napi::Array toArray(Napi::Env env, const Dims& dims) {
  const uint32_t count = dims.count < 0 ? 0 : dims.count > kMaxDims ? kMaxDims : static_cast<uint32_t>(dims.count);
  auto out = Napi::Array::New(env, count);
  for (uint32_t i = 0; i < count; i++) out.Set(i, static_cast<double>(dims.d[i]));
  return out;
}

Napi::Array toArray(Napi::Env env, const std::vector<std::string>& list) {
  auto out = Napi::Array::New(env, list.size());
  for (uint32_t i = 0; i < list.size(); i++) out.Set(i, list[i]);
  return out;
}

std::string toText(const Dims& dims) {
  std::string out;
  for (int i = 0; i < dims.count && i < kMaxDims; i++) out += (i > 0 ? "x" : "") + std::to_string(dims.d[i]);
  return "[" + out + "]";
}

Dims dimsOf(Napi::Env env, const Napi::Value& v, const char* what) {
  const auto list = array(env, v, what);
  if (list.Length() > kMaxDims) throw Napi::RangeError::New(env, std::string(what) + " has more than eight entries");
  Dims out;
  out.count = static_cast<int32_t>(list.Length());
  for (uint32_t i = 0; i < list.Length(); i++) out.d[i] = static_cast<int64_t>(number(env, list.Get(i), what, 1ull << 48));
  return out;
}

Napi::Error toError(Napi::Env env, const Failure& failure, const Sink& sink) {
  auto error = Napi::Error::New(env, failure.call + ": " + failure.text);
  auto value = error.Value();
  value["call"] = failure.call;
  value["native"] = failure.text;
  value["memory"] = sink.outOfMemory();
  value["log"] = sink.lines(env);
  value["parser"] = toArray(env, failure.parser);
  return error;
}

void Task::use(Handle& h) {
  h.busy++;
  used_.push_back(h.id);
}

void Task::on(const Napi::Value& context) {
  if (context.IsUndefined()) return;
  State& s = state(Env());
  Handle& h = s.get(Env(), context, Kind::Context);
  context_ = contextOf(s, h);
  use(h);
}

Model Task::model(const Napi::Value& v) {
  if (v.IsString()) return {nullptr, 0, v.As<Napi::String>().Utf8Value()};
  const Bytes bytes = bytesOf(Env(), v);
  hold(v);
  return {bytes.data, bytes.length, {}};
}

Napi::Promise Task::start(std::unique_ptr<Task> task) {
  const auto promise = task->deferred_.Promise();
  task->Queue();
  task.release();
  return promise;
}

bool Task::driverFailed(cuda::Result status, const char* call) {
  if (status == 0) return false;
  fail(call, driver().describe(status));
  return true;
}

void Task::Execute() {
  const Listening listening(library_.log(), sink_);
  if (context_ == nullptr) {
    succeeded_ = perform();
    return;
  }
  Current current(context_);
  succeeded_ = !driverFailed(current.status(), "cuCtxPushCurrent") && perform();
}

void Task::OnOK() {
  settle();
  whileItCan([&] {
    sink_->finish(Env());
    if (succeeded_)
      deferred_.Resolve(value());
    else
      deferred_.Reject(toError(Env(), failure_, *sink_).Value());
  });
}

void Task::OnError(const Napi::Error& error) {
  settle();
  whileItCan([&] {
    sink_->finish(Env());
    deferred_.Reject(error.Value());
  });
}

void Task::settle() {
  if (used_.empty()) return;
  State& s = state(Env());
  for (const uint64_t id : used_) {
    const auto found = s.handles.find(id);
    if (found != s.handles.end()) found->second.busy--;
  }
  used_.clear();
}

}  // namespace tensorrt

void registerTensorRt(Napi::Env env, Napi::Object exports) {
  auto object = Napi::Object::New(env);
  tensorrt::registerInstallation(env, object);
  tensorrt::registerBuild(env, object);
  tensorrt::registerEngine(env, object);
  tensorrt::registerRefit(env, object);
  tensorrt::registerRun(env, object);
  exports["tensorrt"] = object;
}
