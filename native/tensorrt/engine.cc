#include "engine.h"

#include "../src/driver.h"

namespace tensorrt {

EngineBox::~EngineBox() {
  std::unique_ptr<Current> current;
  if (context != nullptr) current = std::make_unique<Current>(context);
  const Listening listening(library.log(), sink);
  engine.reset();
  runtime.reset();
}

const IoTensor* EngineBox::find(const std::string& name) const {
  for (const auto& t : io)
    if (t.name == name) return &t;
  return nullptr;
}

ContextBox::~ContextBox() {
  std::unique_ptr<Current> current;
  if (engine->context != nullptr) current = std::make_unique<Current>(engine->context);
  const Listening listening(engine->library.log(), engine->sink);
  context.reset();
  rooms_.clear();
}

OutputRoom* ContextBox::roomOf(const std::string& output) {
  Asked& asked = rooms_[output];
  if (asked.allocator != nullptr) return &asked.room;
  asked.allocator = engine->library.family().allocator(asked.room);
  if (context.setOutputAllocator(output.c_str(), asked.allocator->address())) return &asked.room;
  rooms_.erase(output);
  return nullptr;
}

void ContextBox::dropRoom(const std::string& output) {
  const auto found = rooms_.find(output);
  if (found == rooms_.end()) return;
  context.setOutputAllocator(output.c_str(), nullptr);
  rooms_.erase(found);
}

namespace {

class Deserialization : public Task {
 public:
  using Task::Task;
  Model plan;
  Napi::ObjectReference gpu;  // its handle, in an array
  bool hostCode = false;

 protected:
  bool perform() override {
    box_ = std::make_shared<EngineBox>(library_, context_);
    box_->runtime = library_.createRuntime();
    if (!box_->runtime) return fail("createInferRuntime", "returned null");
    box_->runtime.setErrorRecorder(&box_->recorder);
    if (hostCode) box_->runtime.allowHostCode();
    box_->engine = box_->runtime.deserialize(plan.data, plan.size);
    if (!box_->engine) return fail("deserializeCudaEngine", "returned null");
    for (int32_t i = 0, n = box_->engine.tensors(); i < n; i++) {
      const char* name = box_->engine.tensorName(i);
      if (name == nullptr) return fail("getIOTensorName", "returned null");
      box_->io.push_back({name, box_->engine.tensorMode(name) == 1, box_->engine.tensorLocation(name) == 1, box_->engine.tensorType(name), box_->engine.tensorShape(name)});
    }
    return true;
  }
  Napi::Value value() override {
    const Napi::Env env = Env();
    auto out = Napi::Object::New(env);
    auto io = Napi::Array::New(env, box_->io.size());
    for (uint32_t i = 0; i < box_->io.size(); i++) {
      const IoTensor& t = box_->io[i];
      auto one = Napi::Object::New(env);
      one["name"] = t.name;
      one["input"] = t.input;
      one["host"] = t.host;
      one["type"] = t.type;
      one["dims"] = toArray(env, t.dims);
      io.Set(i, one);
    }
    out["io"] = io;
    out["layers"] = box_->engine.layers();
    out["profiles"] = box_->engine.profiles();
    out["refittable"] = box_->engine.refittable();
    out["deviceMemoryBytes"] = static_cast<double>(box_->engine.deviceMemory());
    out["log"] = sink_->lines(env);
    const Napi::Value context = gpu.Value().Get(0u);
    State& s = state(env);
    const uint64_t owner = context.IsUndefined() ? 0 : s.get(env, context, Kind::Context).id;
    Handle& h = s.keep(Kind::Engine, owner, 0);
    h.object = std::move(box_);
    out["handle"] = static_cast<double>(h.id);
    return out;
  }

 private:
  std::shared_ptr<EngineBox> box_;
};

// deserialize(library, plan, context | undefined, allowHostCode): Promise<{ handle, io, layers, profiles, refittable, deviceMemoryBytes, log }>
Napi::Value Deserialize(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto task = std::make_unique<Deserialization>(env, installation(env, info[0]), std::make_shared<Sink>());
  task->plan = task->model(info[1]);
  if (task->plan.data == nullptr) throw Napi::RangeError::New(env, "an empty array is no plan");
  task->on(info[2]);
  auto kept = Napi::Array::New(env, 1);
  kept.Set(0u, info[2]);
  task->gpu = Napi::Persistent(kept.As<Napi::Object>());
  task->hostCode = info[3].ToBoolean();
  return Task::start(std::move(task));
}

// inspect(engine): TensorRT's inspector, JSON.
Napi::Value Inspect(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto box = engineOf(state(env).get(env, info[0], Kind::Engine));
  const Listening listening(box->library.log(), box->sink);
  const EngineInspector inspector = box->engine.createInspector();
  const char* const json = inspector ? inspector.json() : nullptr;
  if (json == nullptr) throw toError(env, {"createEngineInspector", "returned null", {}}, *box->sink);
  return Napi::String::New(env, json);
}

// range(engine, input, profile): [min, opt, max], or undefined where the profile has none.
Napi::Value Range(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto box = engineOf(state(env).get(env, info[0], Kind::Engine));
  const std::string name = text(env, info[1], "input");
  const auto profile = static_cast<int32_t>(number(env, info[2], "profile", 1 << 20));
  const IoTensor* t = box->find(name);
  if (t == nullptr || !t->input || profile >= box->engine.profiles()) throw Napi::RangeError::New(env, "the engine has no input '" + name + "' in profile " + std::to_string(profile));
  const Listening listening(box->library.log(), box->sink);
  auto out = Napi::Array::New(env, 3);
  for (int32_t select = 0; select < 3; select++) {
    const Dims dims = box->engine.profileShape(name.c_str(), profile, select);
    if (dims.count < 0) return env.Undefined();
    out.Set(static_cast<uint32_t>(select), toArray(env, dims));
  }
  return out;
}

class NewContext : public Task {
 public:
  using Task::Task;
  std::shared_ptr<EngineBox> engine;
  uint64_t owner = 0, gpu = 0;
  int32_t profile = 0;

 protected:
  bool perform() override {
    Driver& d = driver();
    const std::lock_guard<std::mutex> guard(engine->lock);
    box_ = std::make_shared<ContextBox>(engine);
    box_->context = engine->engine.createContext();
    if (!box_->context) return fail("createExecutionContext", "returned null");
    cuda::Stream stream = nullptr;
    if (driverFailed(d.StreamCreate(&stream, cuda::kStreamNonBlocking), "cuStreamCreate")) return false;
    const bool chosen = box_->context.setOptimizationProfile(profile, stream);
    const cuda::Result waited = d.StreamSynchronize(stream);
    d.StreamDestroy(stream);
    if (!chosen) return fail("setOptimizationProfileAsync", "profile " + std::to_string(profile) + " is refused");
    return !driverFailed(waited, "cuStreamSynchronize");
  }
  Napi::Value value() override {
    Handle& h = state(Env()).keep(Kind::Execution, gpu, 0, 0, owner);
    h.object = std::move(box_);
    return result(Env(), h);
  }

 private:
  std::shared_ptr<ContextBox> box_;
};

// contextCreate(engine, profile): Promise<handle>
Napi::Value ContextCreate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Handle& h = state(env).get(env, info[0], Kind::Engine);
  const auto box = engineOf(h);
  if (box->context == nullptr) throw Napi::TypeError::New(env, "an engine that was loaded without a GPU cannot run");
  const auto profile = static_cast<int32_t>(number(env, info[1], "profile", 1 << 20));
  if (profile >= box->engine.profiles()) throw Napi::RangeError::New(env, "the engine has no profile " + std::to_string(profile));
  auto task = std::make_unique<NewContext>(env, box->library, std::make_shared<Sink>());
  task->engine = box;
  task->owner = h.id;
  task->gpu = h.context;
  task->profile = profile;
  task->on(box->context);
  task->use(h);
  return Task::start(std::move(task));
}

}  // namespace

void registerEngine(Napi::Env env, Napi::Object exports) {
  exports["deserialize"] = Napi::Function::New(env, Deserialize, "deserialize");
  exports["inspect"] = Napi::Function::New(env, Inspect, "inspect");
  exports["range"] = Napi::Function::New(env, Range, "range");
  exports["contextCreate"] = Napi::Function::New(env, ContextCreate, "contextCreate");
}

}  // namespace tensorrt
