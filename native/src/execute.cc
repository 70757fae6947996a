// An inference (copies in, a graph, copies out, the wait), off the event loop or looked after by it, and the timing of a graph.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "driver.h"
#include "state.h"
#include "threads.h"

namespace {

// The first call that failed.
struct Failure {
  cuda::Result status = 0;
  const char* call = "";

  bool happened() const { return status != 0; }
  bool step(cuda::Result r, const char* at) {
    if (r != 0 && status == 0) *this = {r, at};
    return r == 0;
  }
  Napi::Error toError(Napi::Env env) const { return nativeError(env, call, status, driver().describe(status)); }
};

// Handles in use: they cannot be released before its end. Of JavaScript's thread.
class Uses {
 public:
  explicit Uses(State& state) : state_(state) {}
  Uses(const Uses&) = delete;
  Uses& operator=(const Uses&) = delete;
  ~Uses() { settle(); }
  void add(Handle& h) {
    h.busy++;
    ids_.push_back(h.id);
  }
  void settle() {
    for (const uint64_t id : ids_) {
      const auto found = state_.handles.find(id);
      if (found != state_.handles.end()) found->second.busy--;
    }
    ids_.clear();
  }

 private:
  State& state_;
  std::vector<uint64_t> ids_;
};

// Asynchronous work, with a promise of its end.
class Work : public Napi::AsyncWorker {
 public:
  explicit Work(Napi::Env env) : Napi::AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)) {}
  // Ends the preparation: the work runs, deletes itself when it is done, and settles the promise. `apart`: on a thread that waits for nobody else's work,
  // where there is one; otherwise on one of those that all of Node.js shares.
  static Napi::Promise start(std::unique_ptr<Work> work, bool apart = false) {
    const auto promise = work->deferred_.Promise();
    if (!apart || !state(work->Env()).apart.run(work->Env(), *work)) work->Queue();
    work.release();
    return promise;
  }

 protected:
  virtual Napi::Value value() { return Env().Undefined(); }
  virtual const Failure& failure() const = 0;
  // It is over: what it used may be released before the promise is settled.
  virtual void settle() = 0;
  void OnOK() override {
    settle();
    whileItCan([&] {
      if (failure().happened())
        deferred_.Reject(failure().toError(Env()).Value());
      else
        deferred_.Resolve(value());
    });
  }
  void OnError(const Napi::Error& error) override {
    settle();
    whileItCan([&] { deferred_.Reject(error.Value()); });
  }

 private:
  Napi::Promise::Deferred deferred_;
};

// Pageable memory on its way to the device goes through a ring of pinned pieces, small enough that they stay in the processor's cache: while one is copied
// into, those before it cross the bus. Large arrays have several rings with a thread each.
constexpr size_t kPiece = 1 << 20;
constexpr size_t kRing = 4;
constexpr unsigned kRings = 4;
// Bytes that JavaScript's thread copies itself: telling another thread of them takes as long.
constexpr size_t kSmall = 1 << 20;

// Everything that one run does on its stream. Made, settled and destroyed on JavaScript's thread; `start` and `finish` may be called on any.
class Inference : public Begun {
 public:
  struct Copy {
    enum { Pinned, Device, Ring } kind;
    uint64_t address;  // of device memory, or of pinned memory that is copied into or out of
    uint8_t* host;
    size_t bytes;
    uint8_t* ring;  // as much pinned memory as the bytes
    bool locked;    // the array is page-locked: no thread waits for its copy to the device or from it
  };
  Inference(State& s, cuda::Context context, cuda::Stream stream, cuda::GraphExec graph) : uses(s), context_(context), stream_(stream), graph_(graph) {}
  // The memory may go when this is gone.
  ~Inference() override { finish(); }
  void abandon() override {
    for (auto& h : held) h.SuppressDestruct();
  }
  std::vector<Copy> in, out;
  std::vector<Napi::ObjectReference> held;
  Uses uses;

  const Failure& failure() const { return failure_; }
  void settle() {
    held.clear();
    uses.settle();
  }
  // Whether all of it is on the stream at once: nothing in it waits, and little is copied by the thread that starts it.
  bool quick() const {
    size_t here = 0;
    for (const auto* list : {&in, &out})
      for (const auto& c : *list) {
        if (c.kind == Copy::Device && !c.locked) return false;
        if (c.kind != Copy::Device) here += c.bytes;
      }
    return here <= kSmall;
  }
  // Puts it on the stream. False after a failure: what was put there before that is over then.
  bool start() {
    const Driver& d = driver();
    const Current current(context_);
    if (!failure_.step(current.status(), "cuCtxPushCurrent")) return false;
    underWay_ = true;
    for (const auto& c : in) {
      if (c.kind == Copy::Pinned)
        std::memcpy(reinterpret_cast<void*>(static_cast<uintptr_t>(c.address)), c.host, c.bytes);
      else if (c.kind == Copy::Ring)
        upload(c);
      else
        failure_.step(d.MemcpyHtoDAsync(c.address, c.host, c.bytes, stream_), "cuMemcpyHtoDAsync");
      if (failure_.happened()) break;
    }
    bool good = !failure_.happened();
    if (good && graph_ != nullptr) good = failure_.step(d.GraphLaunch(graph_, stream_), "cuGraphLaunch");
    for (const auto& c : out)
      if (good && c.kind == Copy::Device) good = failure_.step(d.MemcpyDtoHAsync(c.host, c.address, c.bytes, stream_), "cuMemcpyDtoHAsync");
    if (!good) finish();
    return good;
  }
  // Whether there is nothing to wait for any more.
  bool over() {
    const Current current(context_);
    if (!failure_.step(current.status(), "cuCtxPushCurrent")) return true;
    // What has failed is over, too: the wait, which is none then, says so.
    return driver().StreamQuery(stream_) != cuda::kNotReady;
  }
  // Waits, and fetches what waits in pinned memory. Also after a failure: the memory may be freed once this has returned.
  void finish() {
    if (!underWay_) return;
    underWay_ = false;
    const Current current(context_);
    if (!failure_.step(current.status(), "cuCtxPushCurrent")) return;
    if (!failure_.step(driver().StreamSynchronize(stream_), "cuStreamSynchronize") || failure_.happened()) return;
    for (const auto& c : out)
      if (c.kind == Copy::Pinned) std::memcpy(c.host, reinterpret_cast<const void*>(static_cast<uintptr_t>(c.address)), c.bytes);
  }

 private:
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
    for (const auto& f : failures) failure_.step(f.status, f.call);
  }
  // Every so many pieces of an array, from the given one on, through a ring of their own.
  Failure pieces(const Copy& c, size_t first, size_t every) const {
    const Driver& d = driver();
    const Current current(context_);
    Failure failure;
    if (!failure.step(current.status(), "cuCtxPushCurrent")) return failure;
    uint8_t* const ring = c.ring + first * kRing * kPiece;
    cuda::Event done[kRing] = {};
    size_t n = 0;
    for (size_t at = first * kPiece; at < c.bytes; at += every * kPiece, n++) {
      const size_t slot = n % kRing, bytes = std::min(kPiece, c.bytes - at);
      if (n >= kRing && !failure.step(d.EventSynchronize(done[slot]), "cuEventSynchronize")) break;
      std::memcpy(ring + slot * kPiece, c.host + at, bytes);
      if (!failure.step(d.MemcpyHtoDAsync(c.address + at, ring + slot * kPiece, bytes, stream_), "cuMemcpyHtoDAsync")) break;
      // Whether the slot is used again.
      if (at + kRing * every * kPiece >= c.bytes) continue;
      if (done[slot] == nullptr && !failure.step(d.EventCreate(&done[slot], cuda::kEventDisableTiming), "cuEventCreate")) break;
      if (!failure.step(d.EventRecord(done[slot], stream_), "cuEventRecord")) break;
    }
    for (const cuda::Event e : done)
      if (e != nullptr) d.EventDestroy(e);
    return failure;
  }
  cuda::Context context_;
  cuda::Stream stream_;
  cuda::GraphExec graph_;
  bool underWay_ = false;
  Failure failure_;
};

// A run on a thread that waits for it: the whole of it, or what is left of one that has begun.
class Execution : public Work {
 public:
  Execution(Napi::Env env, std::unique_ptr<Inference> inference, bool begun) : Work(env), inference_(std::move(inference)), begun_(begun) {}

 protected:
  void Execute() override {
    if (begun_ || inference_->start()) inference_->finish();
  }
  const Failure& failure() const override { return inference_->failure(); }
  void settle() override { inference_->settle(); }

 private:
  std::unique_ptr<Inference> inference_;
  bool begun_;
};

// stream, graph | undefined, in, out: in and out are [memory, offset, array] with device or pinned memory; in may be [memory, offset, array, pinned, from]: by
// way of as much pinned memory from that offset on, unless the array lies in pinned memory itself. In order: arrays copied in, the graph, arrays copied out.
std::unique_ptr<Inference> inference(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  Handle& stream = s.get(env, info[0], Kind::Stream);
  Handle* const graph = info[1].IsUndefined() ? nullptr : &s.get(env, info[1], Kind::Graph);
  auto made = std::make_unique<Inference>(s, contextOf(s, stream), as<cuda::Stream>(stream), graph == nullptr ? nullptr : as<cuda::GraphExec>(*graph));
  auto read = [&](const Napi::Value& given, std::vector<Inference::Copy>& into) {
    const auto list = array(env, given, "copies");
    for (uint32_t i = 0; i < list.Length(); i++) {
      const auto one = array(env, list.Get(i), "a copy");
      Handle& memory = s.memory(env, one.Get(0u));
      const uint64_t offset = number(env, one.Get(1u), "offset");
      const Napi::Value target = one.Get(2u);
      const Bytes host = bytesOf(env, target);
      inside(env, memory, offset, host.length);
      if (host.length == 0) continue;
      Inference::Copy copy{memory.kind == Kind::Host ? Inference::Copy::Pinned : Inference::Copy::Device, memory.value + offset, host.data, host.length, nullptr, false};
      Handle* const locked = copy.kind == Inference::Copy::Device ? s.pinned(host.data, host.length) : nullptr;
      copy.locked = locked != nullptr;
      if (locked != nullptr) made->uses.add(*locked);
      if (one.Length() > 3) {
        Handle& by = s.get(env, one.Get(3u), Kind::Host);
        const uint64_t from = number(env, one.Get(4u), "offset");
        inside(env, by, from, host.length);
        if (memory.kind != Kind::Memory) throw Napi::TypeError::New(env, "only what goes to device memory goes by way of pinned memory");
        if (locked == nullptr) {
          copy.kind = Inference::Copy::Ring;
          copy.ring = as<uint8_t*>(by) + from;
          made->uses.add(by);
        }
      }
      into.push_back(copy);
      made->held.push_back(Napi::Persistent(target.As<Napi::Object>()));
      made->uses.add(memory);
    }
  };
  made->uses.add(stream);
  if (graph != nullptr) made->uses.add(*graph);
  read(info[2], made->in);
  read(info[3], made->out);
  return made;
}

// execute(stream, graph | undefined, in, out): Promise<void>. The arrays must stay as they are until the promise settles.
Napi::Value Execute(const Napi::CallbackInfo& info) { return Work::start(std::make_unique<Execution>(info.Env(), inference(info), false), true); }

// begin(stream, graph | undefined, in, out): number of the run | undefined. All of it is on the stream when this returns; nothing has happened where a thread
// had to wait for an array, or to copy a large one.
Napi::Value Begin(const Napi::CallbackInfo& info) {
  auto it = inference(info);
  if (!it->quick()) {
    it->settle();
    return info.Env().Undefined();
  }
  if (!it->start()) {
    it->settle();
    throw it->failure().toError(info.Env());
  }
  State& s = state(info.Env());
  const uint64_t id = s.next++;
  s.begun.emplace(id, std::move(it));
  return Napi::Number::New(info.Env(), static_cast<double>(id));
}

std::unique_ptr<Inference> taken(Napi::Env env, const Napi::Value& v, bool onlyOver) {
  State& s = state(env);
  const auto found = s.begun.find(number(env, v, "run"));
  if (found == s.begun.end()) throw Napi::TypeError::New(env, "expected a run that has begun, got " + v.ToString().Utf8Value());
  auto& it = static_cast<Inference&>(*found->second);
  if (onlyOver && !it.over()) return nullptr;
  found->second.release();
  s.begun.erase(found);
  return std::unique_ptr<Inference>(&it);
}

// ended(run): whether it is over. Its results are there then, and the number means nothing any more; throws what failed.
Napi::Value Ended(const Napi::CallbackInfo& info) {
  const auto it = taken(info.Env(), info[0], true);
  if (it != nullptr) {
    it->finish();
    it->settle();
    if (it->failure().happened()) throw it->failure().toError(info.Env());
  }
  return Napi::Boolean::New(info.Env(), it != nullptr);
}

// wait(run): Promise<void>: the rest of it, by a thread that waits.
Napi::Value Wait(const Napi::CallbackInfo& info) {
  return Work::start(std::make_unique<Execution>(info.Env(), taken(info.Env(), info[0], false), true), true);
}

class Timing : public Work {
 public:
  Timing(Napi::Env env, cuda::Context context, cuda::Stream stream, cuda::GraphExec graph, size_t warmup, size_t count)
      : Work(env), uses(state(env)), context_(context), stream_(stream), graph_(graph), warmup_(warmup), times_(count) {}
  Uses uses;

 protected:
  void Execute() override {
    Driver& d = driver();
    Current current(context_);
    if (!failure_.step(current.status(), "cuCtxPushCurrent")) return;
    cuda::Event from = nullptr, to = nullptr;
    if (failure_.step(d.EventCreate(&from, 0), "cuEventCreate") && failure_.step(d.EventCreate(&to, 0), "cuEventCreate")) measure(d, from, to);
    d.StreamSynchronize(stream_);
    if (from != nullptr) d.EventDestroy(from);
    if (to != nullptr) d.EventDestroy(to);
  }
  Napi::Value value() override {
    auto out = Napi::Float64Array::New(Env(), times_.size());
    for (size_t i = 0; i < times_.size(); i++) out[i] = times_[i];
    return out;
  }
  const Failure& failure() const override { return failure_; }
  void settle() override { uses.settle(); }

 private:
  void measure(Driver& d, cuda::Event from, cuda::Event to) {
    for (size_t i = 0; i < warmup_; i++)
      if (!failure_.step(d.GraphLaunch(graph_, stream_), "cuGraphLaunch")) return;
    if (!failure_.step(d.StreamSynchronize(stream_), "cuStreamSynchronize")) return;
    for (double& time : times_) {
      float ms = 0;
      if (!failure_.step(d.EventRecord(from, stream_), "cuEventRecord") || !failure_.step(d.GraphLaunch(graph_, stream_), "cuGraphLaunch") ||
          !failure_.step(d.EventRecord(to, stream_), "cuEventRecord") || !failure_.step(d.EventSynchronize(to), "cuEventSynchronize") ||
          !failure_.step(d.EventElapsedTime(&ms, from, to), "cuEventElapsedTime"))
        return;
      time = ms;
    }
  }
  cuda::Context context_;
  cuda::Stream stream_;
  cuda::GraphExec graph_;
  size_t warmup_;
  std::vector<double> times_;
  Failure failure_;
};

// timeGraph(stream, graph, warmup, count): Promise<Float64Array>, the milliseconds of each replay between two events.
Napi::Value TimeGraph(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  State& s = state(env);
  Handle& stream = s.get(env, info[0], Kind::Stream);
  Handle& graph = s.get(env, info[1], Kind::Graph);
  auto work = std::make_unique<Timing>(env, contextOf(s, stream), as<cuda::Stream>(stream), as<cuda::GraphExec>(graph), number(env, info[2], "warmup", 1 << 20),
                                       number(env, info[3], "count", 1 << 20));
  work->uses.add(stream);
  work->uses.add(graph);
  return Work::start(std::move(work));
}

}  // namespace

void registerExecute(Napi::Env env, Napi::Object exports) {
  exports["execute"] = Napi::Function::New(env, Execute, "execute");
  exports["begin"] = Napi::Function::New(env, Begin, "begin");
  exports["ended"] = Napi::Function::New(env, Ended, "ended");
  exports["wait"] = Napi::Function::New(env, Wait, "wait");
  exports["timeGraph"] = Napi::Function::New(env, TimeGraph, "timeGraph");
}
