// Device and pinned memory, and the copies and fills of a stream.
#include <algorithm>

#include "driver.h"
#include "state.h"

namespace {

constexpr uint64_t kMaxBytes = 1ull << 48;

// memAlloc(context, bytes). Zero bytes get an allocation too, so that every tensor has an address.
Napi::Value MemAlloc(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  const Handle& context = s.get(env, info[0], Kind::Context);
  const uint64_t bytes = number(env, info[1], "bytes", kMaxBytes);
  Current current(env, contextOf(s, context));
  cuda::DevicePtr p = 0;
  check(env, driver().MemAlloc(&p, std::max<uint64_t>(bytes, 1)), "cuMemAlloc of " + std::to_string(bytes) + " bytes");
  return result(env, s.keep(Kind::Memory, context.id, p, bytes));
}

// memAddress(memory): the device address as a BigInt, for kernel arguments.
Napi::Value MemAddress(const Napi::CallbackInfo& info) {
  return Napi::BigInt::New(info.Env(), state(info.Env()).get(info.Env(), info[0], Kind::Memory).value);
}

// hostAlloc(context, bytes): { handle, buffer }, a pinned ArrayBuffer; releasing the handle detaches it.
Napi::Value HostAlloc(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  const Handle& context = s.get(env, info[0], Kind::Context);
  const uint64_t bytes = std::max<uint64_t>(number(env, info[1], "bytes", kMaxBytes), 1);
  Current current(env, contextOf(s, context));
  void* p = nullptr;
  check(env, driver().MemHostAlloc(&p, bytes, cuda::kHostAllocPortable), "cuMemHostAlloc of " + std::to_string(bytes) + " bytes");
  Handle& h = s.keep(Kind::Host, context.id, reinterpret_cast<uintptr_t>(p), bytes);
  const auto buffer = Napi::ArrayBuffer::New(env, p, bytes);
  h.buffer = Napi::Reference<Napi::ArrayBuffer>::New(buffer, 1);
  auto out = Napi::Object::New(env);
  out["handle"] = static_cast<double>(h.id);
  out["buffer"] = buffer;
  return out;
}

// fill(stream, memory, offset, bytes, value)
Napi::Value Fill(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  const Handle& stream = s.get(env, info[0], Kind::Stream);
  const Handle& memory = s.get(env, info[1], Kind::Memory);
  const uint64_t offset = number(env, info[2], "offset"), length = number(env, info[3], "bytes"), value = number(env, info[4], "value", 255);
  inside(env, memory, offset, length);
  Current current(env, contextOf(s, stream));
  if (length > 0) check(env, driver().MemsetD8Async(memory.value + offset, static_cast<unsigned char>(value), length, as<cuda::Stream>(stream)), "cuMemsetD8Async");
  return env.Undefined();
}

// copy(stream, to, toOffset, from, fromOffset, bytes): between device memory and device or pinned memory, in stream order.
Napi::Value Copy(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  const Handle& stream = s.get(env, info[0], Kind::Stream);
  const Handle& to = s.memory(env, info[1]);
  const Handle& from = s.memory(env, info[3]);
  const uint64_t toOffset = number(env, info[2], "offset"), fromOffset = number(env, info[4], "offset"), length = number(env, info[5], "bytes");
  inside(env, to, toOffset, length);
  inside(env, from, fromOffset, length);
  if (to.kind == Kind::Host && from.kind == Kind::Host) throw Napi::TypeError::New(env, "a copy between two pieces of pinned memory needs no GPU");
  if (length == 0) return env.Undefined();
  Driver& d = driver();
  const auto queue = as<cuda::Stream>(stream);
  Current current(env, contextOf(s, stream));
  if (to.kind == Kind::Host)
    check(env, d.MemcpyDtoHAsync(as<uint8_t*>(to) + toOffset, from.value + fromOffset, length, queue), "cuMemcpyDtoHAsync");
  else if (from.kind == Kind::Host)
    check(env, d.MemcpyHtoDAsync(to.value + toOffset, as<uint8_t*>(from) + fromOffset, length, queue), "cuMemcpyHtoDAsync");
  else
    check(env, d.MemcpyDtoDAsync(to.value + toOffset, from.value + fromOffset, length, queue), "cuMemcpyDtoDAsync");
  return env.Undefined();
}

}  // namespace

void registerMemory(Napi::Env env, Napi::Object exports) {
  exports["memAlloc"] = Napi::Function::New(env, MemAlloc, "memAlloc");
  exports["memAddress"] = Napi::Function::New(env, MemAddress, "memAddress");
  exports["hostAlloc"] = Napi::Function::New(env, HostAlloc, "hostAlloc");
  exports["fill"] = Napi::Function::New(env, Fill, "fill");
  exports["copy"] = Napi::Function::New(env, Copy, "copy");
}
