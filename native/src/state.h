// What JavaScript holds of the GPU: handles, which are numbers; a wrong, stale or foreign one is an error, never a wild pointer.
// One table for each environment (the main thread, each worker thread); its end frees whatever is left.
#pragma once
#include <napi.h>

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "cuda.h"
#include "threads.h"

enum class Kind { Context, Module, Function, Memory, Host, Stream, Event, Graph, Engine, Execution };
constexpr int kKinds = 10;
extern const char* const kindNames[kKinds];

struct Handle {
  Kind kind;
  uint64_t id = 0;
  uint64_t context = 0;  // the owning context's handle; its own for a context
  uint64_t owner = 0;    // a function's module, an execution context's engine, the execution context of a graph that was captured from it
  uint64_t value = 0;    // pointer or device address
  uint64_t bytes = 0;    // of memory; a context's device ordinal
  uint32_t busy = 0;     // asynchronous work that uses it
  Napi::Reference<Napi::ArrayBuffer> buffer;  // over pinned memory
  std::shared_ptr<void> object;               // TensorRT's engines and execution contexts, which end with it
};

// A run that is on its stream and that no thread waits for; its destructor does.
struct Begun {
  virtual ~Begun() = default;
  // The environment ends: JavaScript's arrays are out of reach.
  virtual void abandon() = 0;
};

struct State {
  std::unordered_map<uint64_t, Handle> handles;
  std::unordered_map<uint64_t, std::unique_ptr<Begun>> begun;
  uint64_t next = 1;
  Apart apart;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State();

  Handle& keep(Kind kind, uint64_t context, uint64_t value, uint64_t bytes = 0, uint64_t owner = 0);
  // The live handle of that kind, or a TypeError that says what was given.
  Handle& get(Napi::Env env, const Napi::Value& v, Kind kind);
  // Device or pinned memory.
  Handle& memory(Napi::Env env, const Napi::Value& v);
  // The pinned memory that all of these bytes lie in, or nullptr.
  Handle* pinned(const uint8_t* from, size_t bytes);
};

State& state(Napi::Env env);

template <class T>
T as(const Handle& h) {
  return reinterpret_cast<T>(static_cast<uintptr_t>(h.value));
}
cuda::Context contextOf(State& s, const Handle& h);

// Makes a context current for a scope, on whatever thread that scope runs.
class Current {
 public:
  explicit Current(cuda::Context c);
  // As above, for JavaScript's thread: throws where the context cannot be made current.
  Current(Napi::Env env, cuda::Context c);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  cuda::Result status() const { return status_; }

 private:
  cuda::Result status_;
};

struct Bytes {
  uint8_t* data = nullptr;
  size_t length = 0;
};
// The memory of a typed array or ArrayBuffer.
Bytes bytesOf(Napi::Env env, const Napi::Value& v);
// A whole, non-negative number up to `limit`; anything else is a RangeError that names it.
uint64_t number(Napi::Env env, const Napi::Value& v, const char* what, uint64_t limit = (1ull << 53) - 1);
std::string text(Napi::Env env, const Napi::Value& v, const char* what);
Napi::Array array(Napi::Env env, const Napi::Value& v, const char* what);
// Throws unless [offset, offset + length) lies in the memory of the handle.
void inside(Napi::Env env, const Handle& memory, uint64_t offset, uint64_t length);

inline Napi::Value result(Napi::Env env, const Handle& h) { return Napi::Number::New(env, static_cast<double>(h.id)); }

// Settles a promise. In an environment that is ending JavaScript can no longer be called: nobody waits for the promise then, and the failure is dropped.
template <class F>
void whileItCan(F settle) {
  try {
    settle();
  } catch (const Napi::Error&) {
  }
}
