// Work off the event loop: an inference (copies in, a graph, copies out, the wait), and the timing of a graph.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "driver.h"
#include "state.h"
#include "threads.h"

namespace {

// Asynchronous work that uses handles: they cannot be released before it settles.
class Work : public Napi::AsyncWorker {
 public:
  explicit Work(Napi::Env env) : Napi::AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)) {}
  void use(Handle& h) {
    h.busy++;
    used_.push_back(h.id);
  }
  // Ends the preparation: the work runs, deletes itself when it is done, and settles the promise. `apart`: on a thread that waits for nobody else's work,
  // where there is one; otherwise on one of those that all of Node.js shares.
  static Napi::Promise start(std::unique_ptr<Work> work, bool apart = false) {
    const auto promise = work->deferred_.Promise();
    if (!apart || !state(work->Env()).apart.run(work->Env(), *work)) work->Queue();
    work.release();
    return promise;
  }
  ~Work() override { settle(); }

 protected:
  virtual Napi::Value value() { return Env().Undefined(); }
  bool failed() const { return status_ != 0; }
  bool step(cuda::Result r, const char* call) {
    if (r != 0 && status_ == 0) {
      status_ = r;
      call_ = call;
    }
    return r == 0;
  }
  void OnOK() override {
    settle();
    whileItCan([&] {
      if (status_ == 0)
        deferred_.Resolve(value());
      else
        deferred_.Reject(nativeError(Env(), call_, status_, driver().describe(status_)).Value());
    });
  }
  void OnError(const Napi::Error& error) override {
    settle();
    whileItCan([&] { deferred_.Reject(error.Value()); });
  }

 private:
  void settle() {
    if (used_.empty()) return;
    State& s = state(Env());
    for (const uint64_t id : used_) {
      const auto found = s.handles.find(id);
      if (found != s.handles.end()) found->second.busy--;
    }
    used_.clear();
  }
  Napi::Promise::Deferred deferred_;
  std::vector<uint64_t> used_;
  cuda::Result status_ = 0;
  std::string call_;
};

// Pageable memory on its way to the device goes through a ring of pinned pieces, small enough that they stay in the processor's cache: while one is copied
// into, those before it cross the bus. Large arrays have several rings with a thread each.
constexpr size_t kPiece = 1 << 20;
constexpr size_t kRing = 4;
constexpr unsigned kRings = 4;

class Execution : public Work {
 public:
  struct Copy {
    enum { Pinned, Device, Ring } kind;
    uint64_t address;  // of device memory, or of pinned memory that is copied into or out of
    uint8_t* host;
    size_t bytes;
    uint8_t* ring;  // as much pinned memory as the bytes
  };
  Execution(Napi::Env env, cuda::Context context, cuda::Stream stream, cuda::GraphExec graph) : Work(env), context_(context), stream_(stream), graph_(graph) {}
  std::vector<Copy> in, out;
  std::vector<Napi::ObjectReference> held;

 protected:
  void Execute() override {
    Driver& d = driver();
    Current current(context_);
    if (!step(current.status(), "cuCtxPushCurrent")) return;
    for (const auto& c : in) {
      if (c.kind == Copy::Pinned)
        std::memcpy(reinterpret_cast<void*>(static_cast<uintptr_t>(c.address)), c.host, c.bytes);
      else if (c.kind == Copy::Ring)
        upload(c);
      else
        step(d.MemcpyHtoDAsync(c.address, c.host, c.bytes, stream_), "cuMemcpyHtoDAsync");
      if (failed()) break;
    }
    bool good = !failed();
    if (good && graph_ != nullptr) good = step(d.GraphLaunch(graph_, stream_), "cuGraphLaunch");
    for (const auto& c : out)
      if (good && c.kind == Copy::Device) good = step(d.MemcpyDtoHAsync(c.host, c.address, c.bytes, stream_), "cuMemcpyDtoHAsync");
    // Also after a failure: the memory may be freed once this has returned.
    if (!step(d.StreamSynchronize(stream_), "cuStreamSynchronize") || failed()) return;
    for (const auto& c : out)
      if (c.kind == Copy::Pinned) std::memcpy(c.host, reinterpret_cast<const void*>(static_cast<uintptr_t>(c.address)), c.bytes);
  }

 private:
  struct Failure {
    cuda::Result result = 0;
    const char* call = "";
  };
  void upload(const Copy& c) {
    const Helpers helpers(std::min<size_t>(kRings, std::max<size_t>(1, c.bytes / (kRing * kPiece))) - 1);
    const size_t rings = helpers.count() + 1;
    std::vector<Failure> failures(rings);
    {
      Together others;
      // A thread that does not start leaves its pieces to this one.
      std::vector<size_t> mine{0};
      for (size_t r = 1; r < rings; r++)
        if (!others.add([this, &c, &failures, r, rings] { failures[r] = pieces(c, r, rings); })) mine.push_back(r);
      for (const size_t r : mine) failures[r] = pieces(c, r, rings);
    }
    for (const auto& f : failures) step(f.result, f.call);
  }
  // Every so many pieces of an array, from the given one on, through a ring of their own.
  Failure pieces(const Copy& c, size_t first, size_t every) const {
    const Driver& d = driver();
    const Current current(context_);
    Failure failure{current.status(), "cuCtxPushCurrent"};
    const auto good = [&](cuda::Result r, const char* call) {
      failure = {r, call};
      return r == 0;
    };
    if (failure.result != 0) return failure;
    uint8_t* const ring = c.ring + first * kRing * kPiece;
    cuda::Event done[kRing] = {};
    size_t n = 0;
    for (size_t at = first * kPiece; at < c.bytes; at += every * kPiece, n++) {
      const size_t slot = n % kRing, bytes = std::min(kPiece, c.bytes - at);
      if (n >= kRing && !good(d.EventSynchronize(done[slot]), "cuEventSynchronize")) break;
      std::memcpy(ring + slot * kPiece, c.host + at, bytes);
      if (!good(d.MemcpyHtoDAsync(c.address + at, ring + slot * kPiece, bytes, stream_), "cuMemcpyHtoDAsync")) break;
      // Whether the slot is used again.
      if (at + kRing * every * kPiece >= c.bytes) continue;
      if (done[slot] == nullptr && !good(d.EventCreate(&done[slot], cuda::kEventDisableTiming), "cuEventCreate")) break;
      if (!good(d.EventRecord(done[slot], stream_), "cuEventRecord")) break;
    }
    for (const cuda::Event e : done)
      if (e != nullptr) d.EventDestroy(e);
    return failure;
  }
  cuda::Context context_;
  cuda::Stream stream_;
  cuda::GraphExec graph_;
};

// execute(stream, graph | undefined, in, out): Promise<void>; in and out are [memory, offset, array] with device or pinned memory; in may be
// [memory, offset, array, pinned, from]: by way of as much pinned memory from that offset on, unless the array lies in pinned memory itself.
// In order: arrays copied in, the graph, arrays copied out. The arrays must stay as they are until the promise settles.
Napi::Value Execute(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  Handle& stream = s.get(env, info[0], Kind::Stream);
  Handle* const graph = info[1].IsUndefined() ? nullptr : &s.get(env, info[1], Kind::Graph);
  auto work = std::make_unique<Execution>(env, contextOf(s, stream), as<cuda::Stream>(stream), graph == nullptr ? nullptr : as<cuda::GraphExec>(*graph));
  auto read = [&](const Napi::Value& given, std::vector<Execution::Copy>& into) {
    const auto list = array(env, given, "copies");
    for (uint32_t i = 0; i < list.Length(); i++) {
      const auto one = array(env, list.Get(i), "a copy");
      Handle& memory = s.memory(env, one.Get(0u));
      const uint64_t offset = number(env, one.Get(1u), "offset");
      const Napi::Value target = one.Get(2u);
      const Bytes host = bytesOf(env, target);
      inside(env, memory, offset, host.length);
      if (host.length == 0) continue;
      Execution::Copy copy{memory.kind == Kind::Host ? Execution::Copy::Pinned : Execution::Copy::Device, memory.value + offset, host.data, host.length, nullptr};
      if (one.Length() > 3) {
        Handle& by = s.get(env, one.Get(3u), Kind::Host);
        const uint64_t from = number(env, one.Get(4u), "offset");
        inside(env, by, from, host.length);
        if (memory.kind != Kind::Memory) throw Napi::TypeError::New(env, "only what goes to device memory goes by way of pinned memory");
        Handle* const locked = s.pinned(host.data, host.length);
        if (locked == nullptr) {
          copy.kind = Execution::Copy::Ring;
          copy.ring = as<uint8_t*>(by) + from;
        }
        work->use(locked == nullptr ? by : *locked);
      }
      into.push_back(copy);
      work->held.push_back(Napi::Persistent(target.As<Napi::Object>()));
      work->use(memory);
    }
  };
  work->use(stream);
  if (graph != nullptr) work->use(*graph);
  read(info[2], work->in);
  read(info[3], work->out);
  return Work::start(std::move(work), true);
}

class Timing : public Work {
 public:
  Timing(Napi::Env env, cuda::Context context, cuda::Stream stream, cuda::GraphExec graph, size_t warmup, size_t count)
      : Work(env), context_(context), stream_(stream), graph_(graph), warmup_(warmup), times_(count) {}

 protected:
  void Execute() override {
    Driver& d = driver();
    Current current(context_);
    if (!step(current.status(), "cuCtxPushCurrent")) return;
    cuda::Event from = nullptr, to = nullptr;
    if (step(d.EventCreate(&from, 0), "cuEventCreate") && step(d.EventCreate(&to, 0), "cuEventCreate")) measure(d, from, to);
    d.StreamSynchronize(stream_);
    if (from != nullptr) d.EventDestroy(from);
    if (to != nullptr) d.EventDestroy(to);
  }
  Napi::Value value() override {
    auto out = Napi::Float64Array::New(Env(), times_.size());
    for (size_t i = 0; i < times_.size(); i++) out[i] = times_[i];
    return out;
  }

 private:
  void measure(Driver& d, cuda::Event from, cuda::Event to) {
    for (size_t i = 0; i < warmup_; i++)
      if (!step(d.GraphLaunch(graph_, stream_), "cuGraphLaunch")) return;
    if (!step(d.StreamSynchronize(stream_), "cuStreamSynchronize")) return;
    for (double& time : times_) {
      float ms = 0;
      if (!step(d.EventRecord(from, stream_), "cuEventRecord") || !step(d.GraphLaunch(graph_, stream_), "cuGraphLaunch") ||
          !step(d.EventRecord(to, stream_), "cuEventRecord") || !step(d.EventSynchronize(to), "cuEventSynchronize") ||
          !step(d.EventElapsedTime(&ms, from, to), "cuEventElapsedTime"))
        return;
      time = ms;
    }
  }
  cuda::Context context_;
  cuda::Stream stream_;
  cuda::GraphExec graph_;
  size_t warmup_;
  std::vector<double> times_;
};

// timeGraph(stream, graph, warmup, count): Promise<Float64Array>, the milliseconds of each replay between two events.
Napi::Value TimeGraph(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  Handle& stream = s.get(env, info[0], Kind::Stream);
  Handle& graph = s.get(env, info[1], Kind::Graph);
  auto work = std::make_unique<Timing>(env, contextOf(s, stream), as<cuda::Stream>(stream), as<cuda::GraphExec>(graph), number(env, info[2], "warmup", 1 << 20),
                                       number(env, info[3], "count", 1 << 20));
  work->use(stream);
  work->use(graph);
  return Work::start(std::move(work));
}

}  // namespace

void registerExecute(Napi::Env env, Napi::Object exports) {
  exports["execute"] = Napi::Function::New(env, Execute, "execute");
  exports["timeGraph"] = Napi::Function::New(env, TimeGraph, "timeGraph");
}
