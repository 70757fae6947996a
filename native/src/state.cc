#include "state.h"

#include <cmath>

#include "driver.h"

const char* const kindNames[kKinds] = {"context", "module", "function", "device memory", "pinned memory", "stream", "event", "graph", "TensorRT engine", "execution context"};

namespace {

// Ends what a handle stands for; its context is current.
cuda::Result end(const Driver& d, const Handle& h) {
  switch (h.kind) {
    case Kind::Module: return d.ModuleUnload(as<cuda::Module>(h));
    case Kind::Memory: return d.MemFree(h.value);
    case Kind::Host: return d.MemFreeHost(as<void*>(h));
    case Kind::Stream: return d.StreamDestroy(as<cuda::Stream>(h));
    case Kind::Event: return d.EventDestroy(as<cuda::Event>(h));
    case Kind::Graph: return d.GraphExecDestroy(as<cuda::GraphExec>(h));
    case Kind::Context:
    case Kind::Engine:
    case Kind::Execution:
    case Kind::Function: return 0;
  }
  return 0;
}

// release(handle): ends whatever it is. A handle that is gone is no error: disposal may come twice. One in use by a run is.
Napi::Value Release(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  const auto found = s.handles.find(number(env, info[0], "handle"));
  if (found == s.handles.end()) return env.Undefined();
  Handle& h = found->second;
  const char* const name = kindNames[static_cast<int>(h.kind)];
  if (h.busy > 0) throw Napi::Error::New(env, std::string("the ") + name + " is in use by a run: release it when that has settled");
  if (h.kind == Kind::Context) {
    for (const auto& [id, other] : s.handles)
      if (other.context == h.id && id != h.id)
        throw Napi::Error::New(env, std::string("the context still has a live ") + kindNames[static_cast<int>(other.kind)] + ": release that first");
  }
  if (h.kind == Kind::Engine || h.kind == Kind::Execution) {
    for (const auto& [id, other] : s.handles)
      if (other.owner == h.id) throw Napi::Error::New(env, std::string("the ") + name + " still has a live " + kindNames[static_cast<int>(other.kind)] + ": release that first");
    // The object makes its GPU current itself: an engine may have been loaded without one.
    const auto object = std::move(h.object);
    s.handles.erase(found);
    return env.Undefined();
  }
  if (h.kind == Kind::Module) {
    for (auto it = s.handles.begin(); it != s.handles.end();) it = it->second.kind == Kind::Function && it->second.owner == h.id ? s.handles.erase(it) : std::next(it);
  }
  // Views of pinned memory become empty before the memory goes.
  if (h.kind == Kind::Host && !h.buffer.IsEmpty()) h.buffer.Value().Detach();
  const Handle gone{h.kind, h.id, h.context, h.owner, h.value, h.bytes, 0, {}, {}};
  cuda::Result status = 0;
  if (gone.kind == Kind::Context) {
    status = driver().PrimaryCtxRelease(static_cast<cuda::Device>(gone.bytes));
    s.handles.erase(gone.id);
  } else {
    Current current(contextOf(s, gone));
    s.handles.erase(gone.id);
    check(env, current.status(), "cuCtxPushCurrent");
    status = end(driver(), gone);
  }
  check(env, status, std::string("release of a ") + name);
  return env.Undefined();
}

// live(): how many handles of each kind there are, and the bytes of device memory they hold.
Napi::Value Live(const Napi::CallbackInfo& info) {
  auto out = Napi::Object::New(info.Env());
  size_t counts[kKinds] = {};
  double bytes = 0;
  for (const auto& [id, h] : state(info.Env()).handles) {
    counts[static_cast<int>(h.kind)]++;
    if (h.kind == Kind::Memory) bytes += static_cast<double>(h.bytes);
  }
  for (int k = 0; k < kKinds; k++) out[kindNames[k]] = static_cast<double>(counts[k]);
  out["device bytes"] = bytes;
  return out;
}

}  // namespace

State::~State() {
  for (auto& [id, run] : begun) run->abandon();
  begun.clear();
  // The environment ends: what JavaScript left behind goes, graphs and streams before the memory they use, contexts last.
  Driver& d = driver();
  for (const Kind kind : {Kind::Graph, Kind::Execution, Kind::Engine, Kind::Event, Kind::Stream, Kind::Module, Kind::Memory, Kind::Host})
    for (auto& [id, h] : handles) {
      if (h.kind != kind) continue;
      h.buffer.SuppressDestruct();
      if (h.object != nullptr) {
        h.object.reset();
        continue;
      }
      Current current(contextOf(*this, h));
      if (current.status() == 0) end(d, h);
    }
  for (const auto& [id, h] : handles)
    if (h.kind == Kind::Context) d.PrimaryCtxRelease(static_cast<cuda::Device>(h.bytes));
}

Handle& State::keep(Kind kind, uint64_t context, uint64_t value, uint64_t bytes, uint64_t owner) {
  const uint64_t id = next++;
  Handle& h = handles[id];
  h.kind = kind;
  h.id = id;
  h.context = context == 0 ? id : context;
  h.owner = owner;
  h.value = value;
  h.bytes = bytes;
  return h;
}

Handle* State::pinned(const uint8_t* from, size_t bytes) {
  const uint64_t at = reinterpret_cast<uintptr_t>(from);
  for (auto& [id, h] : handles)
    if (h.kind == Kind::Host && at >= h.value && at - h.value <= h.bytes && bytes <= h.bytes - (at - h.value)) return &h;
  return nullptr;
}

Handle& State::get(Napi::Env env, const Napi::Value& v, Kind kind) {
  if (v.IsNumber()) {
    const double id = v.As<Napi::Number>().DoubleValue();
    const auto found = id >= 1 && id < 9007199254740992.0 && id == std::floor(id) ? handles.find(static_cast<uint64_t>(id)) : handles.end();
    if (found != handles.end() && found->second.kind == kind) return found->second;
    if (found != handles.end())
      throw Napi::TypeError::New(env, std::string("expected a ") + kindNames[static_cast<int>(kind)] + " handle, got a " + kindNames[static_cast<int>(found->second.kind)]);
  }
  const std::string given = v.IsNumber() ? v.ToString().Utf8Value() : std::string("something that is no number");
  throw Napi::TypeError::New(env, std::string("expected a live ") + kindNames[static_cast<int>(kind)] + " handle, got " + given);
}

Handle& State::memory(Napi::Env env, const Napi::Value& v) {
  if (v.IsNumber()) {
    const double id = v.As<Napi::Number>().DoubleValue();
    const auto found = id >= 1 && id < 9007199254740992.0 ? handles.find(static_cast<uint64_t>(id)) : handles.end();
    if (found != handles.end() && found->second.kind == Kind::Host) return found->second;
  }
  return get(env, v, Kind::Memory);
}

State& state(Napi::Env env) { return *env.GetInstanceData<State>(); }

cuda::Context contextOf(State& s, const Handle& h) { return as<cuda::Context>(s.handles.at(h.context)); }

Current::Current(cuda::Context c) : status_(driver().CtxPushCurrent(c)) {}
Current::Current(Napi::Env env, cuda::Context c) : Current(c) { check(env, status_, "cuCtxPushCurrent"); }
Current::~Current() {
  cuda::Context popped = nullptr;
  if (status_ == 0) driver().CtxPopCurrent(&popped);
}

Bytes bytesOf(Napi::Env env, const Napi::Value& v) {
  if (v.IsTypedArray()) {
    const auto a = v.As<Napi::TypedArray>();
    auto buffer = a.ArrayBuffer();
    if (a.ByteLength() == 0) return {};
    return {static_cast<uint8_t*>(buffer.Data()) + a.ByteOffset(), a.ByteLength()};
  }
  if (v.IsArrayBuffer()) {
    auto a = v.As<Napi::ArrayBuffer>();
    return {static_cast<uint8_t*>(a.Data()), a.ByteLength()};
  }
  throw Napi::TypeError::New(env, "expected a typed array or an ArrayBuffer");
}

uint64_t number(Napi::Env env, const Napi::Value& v, const char* what, uint64_t limit) {
  if (!v.IsNumber()) throw Napi::TypeError::New(env, std::string(what) + " must be a number");
  const double n = v.As<Napi::Number>().DoubleValue();
  if (!(n >= 0 && n <= static_cast<double>(limit) && n == std::floor(n)))
    throw Napi::RangeError::New(env, std::string(what) + " must be a whole number from 0 to " + std::to_string(limit) + ", got " + v.ToString().Utf8Value());
  return static_cast<uint64_t>(n);
}

std::string text(Napi::Env env, const Napi::Value& v, const char* what) {
  if (!v.IsString()) throw Napi::TypeError::New(env, std::string(what) + " must be a string");
  return v.As<Napi::String>().Utf8Value();
}

Napi::Array array(Napi::Env env, const Napi::Value& v, const char* what) {
  if (!v.IsArray()) throw Napi::TypeError::New(env, std::string(what) + " must be an array");
  return v.As<Napi::Array>();
}

void inside(Napi::Env env, const Handle& memory, uint64_t offset, uint64_t length) {
  if (offset > memory.bytes || length > memory.bytes - offset)
    throw Napi::RangeError::New(env, "range [" + std::to_string(offset) + ", +" + std::to_string(length) + ") is outside memory of " + std::to_string(memory.bytes) + " bytes");
}

void registerState(Napi::Env env, Napi::Object exports) {
  exports["release"] = Napi::Function::New(env, Release, "release");
  exports["live"] = Napi::Function::New(env, Live, "live");
}
