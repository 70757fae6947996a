// Other weights for an engine: from an ONNX model of the same structure, or by name.
#include "engine.h"

namespace tensorrt {

namespace {

struct Exchange {
  std::string name;
  Weights weights;
};

// The engine has no other work meanwhile: TensorRT's contexts must not run while their weights change.
class Refit : public Task {
 public:
  Refit(Napi::Env env, std::shared_ptr<EngineBox> box) : Task(env, box->library, std::make_shared<Sink>()), box_(std::move(box)) { on(box_->context); }
  bool listing = false;
  std::unique_ptr<Model> from;
  std::vector<Exchange> weights;

 protected:
  bool perform() override {
    const std::lock_guard<std::mutex> guard(box_->lock);
    ErrorRecorder recorder(*sink_);
    const Refitter refitter = library_.createRefitter(box_->engine);
    if (!refitter) return fail("createInferRefitter", "returned null");
    refitter.setErrorRecorder(&recorder);
    if (listing) {
      all_ = names(refitter.all(0, nullptr), [&](int32_t n, const char** to) { return refitter.all(n, to); });
      missing_ = names(refitter.missing(0, nullptr), [&](int32_t n, const char** to) { return refitter.missing(n, to); });
      return true;
    }
    // The parser holds the values that it told the refitter of: it lives until they are taken.
    ParserRefitter parser;
    if (from != nullptr) {
      parser = library_.createParserRefitter(refitter);
      if (!parser) return fail("createNvOnnxParserRefitter", "returned null");
      if (!(from->path.empty() ? parser.refit(from->data, from->size) : parser.refitFromFile(from->path.c_str()))) return fail("refitFromBytes", "the model's weights are refused", complaints(parser));
    }
    for (const Exchange& e : weights)
      if (!refitter.setNamedWeights(e.name.c_str(), e.weights)) return fail("setNamedWeights", "the weights '" + e.name + "' are refused");
    return refitter.refit() || fail("refitCudaEngine", "returned false");
  }
  Napi::Value value() override {
    if (!listing) return Env().Undefined();
    auto out = Napi::Object::New(Env());
    out["all"] = toArray(Env(), all_);
    out["missing"] = toArray(Env(), missing_);
    return out;
  }

 private:
  template <class F>
  static std::vector<std::string> names(int32_t count, F fill) {
    std::vector<const char*> list(static_cast<size_t>(count < 0 ? 0 : count));
    if (!list.empty()) fill(count, list.data());
    std::vector<std::string> out;
    for (const char* name : list)
      if (name != nullptr) out.emplace_back(name);
    return out;
  }
  std::shared_ptr<EngineBox> box_;
  std::vector<std::string> all_, missing_;
};

// The engine's task, where nothing of it is at work.
std::unique_ptr<Refit> refit(Napi::Env env, const Napi::Value& engine) {
  State& s = state(env);
  Handle& h = s.get(env, engine, Kind::Engine);
  bool busy = h.busy > 0;
  for (const auto& [id, other] : s.handles) busy = busy || (other.owner == h.id && other.busy > 0);
  if (busy) throw Napi::Error::New(env, "the engine is in use: its weights can change when its runs have settled");
  auto task = std::make_unique<Refit>(env, engineOf(h));
  task->use(h);
  for (auto& [id, other] : s.handles)
    if (other.owner == h.id) task->use(other);
  return task;
}

// refittable(engine): Promise<{ all, missing }>
Napi::Value Refittable(const Napi::CallbackInfo& info) {
  auto task = refit(info.Env(), info[0]);
  task->listing = true;
  return Task::start(std::move(task));
}

// refit(engine, model | undefined, { name, type, count, data }[]): Promise<void>
Napi::Value StartRefit(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto task = refit(env, info[0]);
  if (!info[1].IsUndefined()) task->from = std::make_unique<Model>(task->model(info[1]));
  const auto list = array(env, info[2], "weights");
  for (uint32_t i = 0; i < list.Length(); i++) {
    const auto one = list.Get(i).ToObject();
    const Bytes bytes = bytesOf(env, one.Get("data"));
    task->hold(one.Get("data"));
    task->weights.push_back({text(env, one.Get("name"), "name"), {static_cast<int32_t>(number(env, one.Get("type"), "type", 11)), bytes.data, static_cast<int64_t>(number(env, one.Get("count"), "count", bytes.length * 2))}});
  }
  return Task::start(std::move(task));
}

}  // namespace

void registerRefit(Napi::Env env, Napi::Object exports) {
  exports["refittable"] = Napi::Function::New(env, Refittable, "refittable");
  exports["refit"] = Napi::Function::New(env, StartRefit, "refit");
}

}  // namespace tensorrt
