// Events: marks on a stream whose distance in time the GPU tells. Recorded while a stream is captured they become part of the graph.
#include "driver.h"
#include "state.h"

namespace {

Napi::Value EventCreate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  const Handle& context = s.get(env, info[0], Kind::Context);
  Current current(env, contextOf(s, context));
  cuda::Event e = nullptr;
  check(env, driver().EventCreate(&e, 0), "cuEventCreate");
  return result(env, s.keep(Kind::Event, context.id, reinterpret_cast<uintptr_t>(e)));
}

// eventRecord(stream, event, captured): `captured` makes it a node of the graph that is being captured, recorded anew by every launch.
Napi::Value EventRecord(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  const Handle& stream = s.get(env, info[0], Kind::Stream);
  const Handle& event = s.get(env, info[1], Kind::Event);
  Current current(env, contextOf(s, stream));
  if (driver().EventRecordWithFlags == nullptr) throw nativeError(env, "dlsym", -1, "the driver has no cuEventRecordWithFlags");
  constexpr unsigned kExternal = 1;  // CU_EVENT_RECORD_EXTERNAL
  check(env, driver().EventRecordWithFlags(as<cuda::Event>(event), as<cuda::Stream>(stream), info[2].ToBoolean() ? kExternal : 0),
        "cuEventRecordWithFlags");
  return env.Undefined();
}

// eventElapsed(from, to): milliseconds. Both must have been recorded, and their streams waited for.
Napi::Value EventElapsed(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  const Handle& from = s.get(env, info[0], Kind::Event);
  const Handle& to = s.get(env, info[1], Kind::Event);
  Current current(env, contextOf(s, from));
  float ms = 0;
  check(env, driver().EventElapsedTime(&ms, as<cuda::Event>(from), as<cuda::Event>(to)), "cuEventElapsedTime");
  return Napi::Number::New(env, ms);
}

}  // namespace

void registerEvent(Napi::Env env, Napi::Object exports) {
  exports["eventCreate"] = Napi::Function::New(env, EventCreate, "eventCreate");
  exports["eventRecord"] = Napi::Function::New(env, EventRecord, "eventRecord");
  exports["eventElapsed"] = Napi::Function::New(env, EventElapsed, "eventElapsed");
}
