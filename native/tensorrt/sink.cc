#include "sink.h"

namespace tensorrt {

const char* const severityNames[5] = {"internal", "error", "warning", "info", "verbose"};

namespace {

constexpr size_t kMostLines = 20000;

// Throws where JavaScript can no longer be called, or the listener threw, which src/engines/tensorrt/build.ts does not let it.
Napi::Object toObject(Napi::Env env, const Event& e) {
  auto out = Napi::Object::New(env);
  switch (e.kind) {
    case Event::Log:
      out["severity"] = severityNames[e.number];
      out["text"] = e.text;
      break;
    case Event::Start:
      out["phase"] = e.text;
      out["parent"] = e.parent;
      out["steps"] = e.number;
      break;
    case Event::Step:
      out["phase"] = e.text;
      out["step"] = e.number;
      break;
    case Event::Finish:
      out["phase"] = e.text;
      break;
  }
  return out;
}

}  // namespace

void Sink::log(int severity, const char* text) {
  const int known = severity < kInternal ? kInternal : severity > kVerbose ? kVerbose : severity;
  if (known > level_ && known > kWarning) return;
  push({Event::Log, known, text != nullptr ? text : "", {}});
}

void Sink::error(int code, const char* text) {
  if (code == kFailedAllocation) memory_ = true;
  push({Event::Log, kError, text != nullptr ? text : "", {}});
}

void Sink::push(Event event) {
  const std::lock_guard<std::mutex> guard(lock_);
  if (event.kind == Event::Log) {
    // What went wrong has room of its own behind the chatter.
    if (kept_.size() < (event.number <= kWarning ? 2 * kMostLines : kMostLines))
      kept_.push_back(event);
    else
      dropped_++;
  }
  if (!listening_) return;
  waiting_.push_back(std::move(event));
  if (waiting_.size() > 1) return;
  auto self = shared_from_this();
  wake_.NonBlockingCall([self](Napi::Env env, Napi::Function listener) {
    try {
      self->drain(env, listener);
    } catch (const Napi::Error&) {
    }
  });
}

void Sink::listen(Napi::Env env, Napi::Function listener) {
  const std::lock_guard<std::mutex> guard(lock_);
  wake_ = Napi::ThreadSafeFunction::New(env, listener, "tensorrt", 0, 1);
  listener_ = Napi::Persistent(listener);
  listening_ = true;
}

void Sink::finish(Napi::Env env) {
  {
    const std::lock_guard<std::mutex> guard(lock_);
    if (!listening_) return;
    listening_ = false;
  }
  try {
    drain(env, listener_.Value());
  } catch (const Napi::Error&) {
  }
  wake_.Release();
  listener_.Reset();
}

void Sink::drain(Napi::Env env, const Napi::Function& listener) {
  std::vector<Event> events;
  {
    const std::lock_guard<std::mutex> guard(lock_);
    events.swap(waiting_);
  }
  if (events.empty()) return;
  const Napi::HandleScope scope(env);
  auto list = Napi::Array::New(env, events.size());
  for (uint32_t i = 0; i < events.size(); i++) list.Set(i, toObject(env, events[i]));
  listener.Call({list});
}

Napi::Array Sink::lines(Napi::Env env) const {
  const std::lock_guard<std::mutex> guard(lock_);
  auto list = Napi::Array::New(env, kept_.size());
  for (uint32_t i = 0; i < kept_.size(); i++) list.Set(i, toObject(env, kept_[i]));
  if (dropped_ > 0) list.Set(static_cast<uint32_t>(kept_.size()), toObject(env, {Event::Log, kWarning, std::to_string(dropped_) + " more messages were not kept", {}}));
  return list;
}

}  // namespace tensorrt
