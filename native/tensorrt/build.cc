// From a model to a plan, and the parser's opinion of a model.
#include <chrono>

#include "tensorrt.h"

namespace tensorrt {

namespace {

double now() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Range {
  std::string name;
  bool values;
  Dims dims[3];                     // min, opt, max
  std::vector<int64_t> elements[3];  // of a shape tensor
};

// Everything of a request, out of JavaScript's reach. Negative numbers: not asked for.
struct Request {
  Model model;
  bool stronglyTyped = true, progress = false, cached = false;
  std::vector<std::vector<Range>> profiles;
  int64_t workspace = -1, level = -1, hardware = -1, tactics = -1, streams = -1, verbosity = -1;
  std::vector<int32_t> capabilities;
  std::vector<Slot> set, clear;
  std::vector<uint8_t> cache;
};

// What parsing needs, alive together: the parser goes first, the builder last, back to the library where it is fit for another network.
struct Parsing {
  Installation& library;
  const cuda::Context context;
  ErrorRecorder recorder;
  Builder builder;
  Object network;
  Parser parser;
  bool fit = false;
  Parsing(Sink& sink, Installation& library, cuda::Context context) : library(library), context(context), recorder(sink), parser(library.abi(), nullptr) {}
  ~Parsing() {
    parser.reset();
    network.reset();
    if (!builder || !fit) return;
    builder.setErrorRecorder(nullptr);
    library.giveBuilder(context, std::move(builder));
  }
};

class ModelTask : public Task {
 public:
  using Task::Task;
  Model input;
  bool stronglyTyped = true;

 protected:
  bool prepare(Parsing& p) {
    p.builder = library_.takeBuilder(context_);
    if (!p.builder) return fail("createInferBuilder", "returned null");
    p.builder.setErrorRecorder(&p.recorder);
    p.network = p.builder.createNetwork(stronglyTyped);
    if (!p.network) return fail("createNetworkV2", "returned null");
    p.parser = library_.createParser(p.network);
    if (!p.parser) return fail("createNvOnnxParser", "returned null");
    p.fit = true;
    return true;
  }
  bool parse(const Parser& parser) const { return input.path.empty() ? parser.parse(input.data, input.size) : parser.parseFromFile(input.path.c_str(), kWarning); }
};

class Build : public ModelTask {
 public:
  using ModelTask::ModelTask;
  Request request;

 protected:
  bool perform() override {
    Parsing p(*sink_, library_, context_);
    if (!prepare(p)) return false;
    const double start = now();
    if (!parse(p.parser)) return fail("parse", "the parser refuses the model", complaints(p.parser));
    parseMs_ = now() - start;
    if (sink_->cancelled()) return fail("cancelled", "before the build");
    // A builder that failed, or was stopped, is not used again.
    p.fit = false;
    const BuilderConfig config = p.builder.createBuilderConfig();
    if (!config) return fail("createBuilderConfig", "returned null");
    TimingCache cache;
    ProgressMonitor monitor(*sink_);
    if (!configure(config) || !addProfiles(p.builder, config) || !addCache(config, cache)) return false;
    config.setProgressMonitor(&monitor);
    const double parsed = now();
    const HostMemory plan = p.builder.build(p.network, config);
    buildMs_ = now() - parsed;
    if (sink_->cancelled()) return fail("cancelled", "by the progress monitor");
    if (!plan) return fail("buildSerializedNetwork", "returned null");
    copy(plan, plan_);
    if (cache) {
      const HostMemory serialized = cache.serialize();
      if (serialized) copy(serialized, cache_);
    }
    p.fit = true;
    return true;
  }
  Napi::Value value() override {
    const Napi::Env env = Env();
    auto out = Napi::Object::New(env);
    out["plan"] = give(plan_);
    if (request.cached) out["timingCache"] = give(cache_);
    out["log"] = sink_->lines(env);
    out["parseMs"] = parseMs_;
    out["buildMs"] = buildMs_;
    return out;
  }

 private:
  static void copy(const HostMemory& from, std::vector<uint8_t>& to) {
    const auto* data = static_cast<const uint8_t*>(from.data());
    to.assign(data, data + from.size());
  }
  // The bytes change hands: a plan may be gigabytes.
  Napi::Value give(std::vector<uint8_t>& bytes) {
    auto* kept = new std::vector<uint8_t>(std::move(bytes));
    return Napi::Buffer<uint8_t>::NewOrCopy(Env(), kept->data(), kept->size(), [](Napi::Env, uint8_t*, std::vector<uint8_t>* gone) { delete gone; }, kept);
  }
  bool configure(const BuilderConfig& config) {
    const Request& r = request;
    for (const Slot flag : r.set) config.setFlag(flag);
    for (const Slot flag : r.clear) config.clearFlag(flag);
    if (r.workspace >= 0) config.setWorkspace(static_cast<size_t>(r.workspace));
    if (r.level >= 0) config.setBuilderOptimizationLevel(static_cast<int32_t>(r.level));
    if (r.hardware >= 0) config.setHardwareCompatibilityLevel(static_cast<int32_t>(r.hardware));
    if (r.streams >= 0) config.setMaxAuxStreams(static_cast<int32_t>(r.streams));
    if (r.verbosity >= 0) config.setProfilingVerbosity(static_cast<int32_t>(r.verbosity));
    if (r.tactics >= 0 && !config.setTacticSources(static_cast<uint32_t>(r.tactics))) return fail("setTacticSources", std::to_string(r.tactics) + " is refused");
    const auto count = static_cast<int32_t>(r.capabilities.size());
    if (count > 0 && !config.setNbComputeCapabilities(count)) return fail("setNbComputeCapabilities", std::to_string(count) + " is refused");
    for (int32_t i = 0; i < count; i++)
      if (!config.setComputeCapability(r.capabilities[i], i)) return fail("setComputeCapability", std::to_string(r.capabilities[i]) + " is refused");
    return true;
  }
  bool addProfiles(const Builder& builder, const BuilderConfig& config) {
    for (const auto& ranges : request.profiles) {
      const OptimizationProfile profile = builder.createOptimizationProfile();
      if (profile.object == nullptr) return fail("createOptimizationProfile", "returned null");
      for (const Range& r : ranges)
        for (int32_t select = 0; select < 3; select++) {
          const bool taken = r.values ? profile.setShapeValues(r.name.c_str(), select, r.elements[select].data(), static_cast<int32_t>(r.elements[select].size()))
                                      : profile.setDimensions(r.name.c_str(), select, r.dims[select]);
          if (!taken) return fail("setDimensions", "the range of '" + r.name + "' is refused");
        }
      if (config.addOptimizationProfile(profile) < 0) return fail("addOptimizationProfile", "the profile is refused");
    }
    return true;
  }
  bool addCache(const BuilderConfig& config, TimingCache& cache) {
    if (!request.cached) return true;
    cache = config.createTimingCache(request.cache.data(), request.cache.size());
    if (cache && config.setTimingCache(cache)) return true;
    // A cache of another version or GPU costs time, not the build.
    sink_->log(kWarning, "the timing cache is refused: starting an empty one");
    cache = config.createTimingCache(nullptr, 0);
    if (cache && !config.setTimingCache(cache)) cache.reset();
    return true;
  }
  double parseMs_ = 0, buildMs_ = 0;
  std::vector<uint8_t> plan_, cache_;
};

class Support : public ModelTask {
 public:
  using ModelTask::ModelTask;

 protected:
  bool perform() override {
    Parsing p(*sink_, library_, context_);
    if (!prepare(p)) return false;
    if (!p.parser.canSupport()) {
      supported_ = parse(p.parser);
    } else if (!input.path.empty()) {
      // Only bytes can be asked about: the path says where their external data is.
      return fail("supportsModelV2", "needs the model's bytes");
    } else {
      supported_ = p.parser.supportsModel(input.data, input.size, nullptr);
      for (int64_t i = 0, n = p.parser.subgraphs(); i < n; i++) {
        int64_t count = 0;
        const int64_t* nodes = p.parser.subgraphNodes(i, count);
        subgraphs_.push_back({p.parser.subgraphSupported(i), nodes == nullptr ? std::vector<int64_t>() : std::vector<int64_t>(nodes, nodes + count)});
      }
    }
    errors_ = complaints(p.parser);
    return true;
  }
  Napi::Value value() override {
    const Napi::Env env = Env();
    auto out = Napi::Object::New(env), list = Napi::Object(Napi::Array::New(env));
    for (uint32_t i = 0; i < subgraphs_.size(); i++) {
      auto one = Napi::Object::New(env);
      auto nodes = Napi::Array::New(env, subgraphs_[i].nodes.size());
      for (uint32_t k = 0; k < subgraphs_[i].nodes.size(); k++) nodes.Set(k, static_cast<double>(subgraphs_[i].nodes[k]));
      one["supported"] = subgraphs_[i].supported;
      one["nodes"] = nodes;
      list.Set(i, one);
    }
    out["supported"] = supported_;
    out["subgraphs"] = list;
    out["errors"] = toArray(env, errors_);
    out["log"] = sink_->lines(env);
    return out;
  }

 private:
  struct Subgraph {
    bool supported;
    std::vector<int64_t> nodes;
  };
  bool supported_ = false;
  std::vector<Subgraph> subgraphs_;
  std::vector<Complaint> errors_;
};

Range rangeOf(Napi::Env env, const Napi::Object& given) {
  Range r{text(env, given.Get("name"), "name"), given.Get("values").ToBoolean(), {}, {}};
  const char* const names[] = {"min", "opt", "max"};
  for (int i = 0; i < 3; i++) {
    if (!r.values) {
      r.dims[i] = dimsOf(env, given.Get(names[i]), names[i]);
      continue;
    }
    const auto list = array(env, given.Get(names[i]), names[i]);
    if (list.Length() > 64) throw Napi::RangeError::New(env, "a shape tensor has more than 64 elements");
    for (uint32_t k = 0; k < list.Length(); k++) r.elements[i].push_back(list.Get(k).ToNumber().Int64Value());
  }
  return r;
}

Napi::Object object(Napi::Env env, const Napi::Value& v, const char* what) {
  if (!v.IsObject()) throw Napi::TypeError::New(env, std::string(what) + " must be an object");
  return v.As<Napi::Object>();
}

Request requestOf(Napi::Env env, const Napi::Object& given, const Abi& abi) {
  Request r;
  const auto whole = [&](const char* name, uint64_t limit) {
    const Napi::Value v = given.Get(name);
    return v.IsUndefined() ? int64_t{-1} : static_cast<int64_t>(number(env, v, name, limit));
  };
  const Napi::Value profiles = given.Get("profiles");
  if (!profiles.IsUndefined()) {
    const auto list = array(env, profiles, "profiles");
    for (uint32_t i = 0; i < list.Length(); i++) {
      const auto ranges = array(env, list.Get(i), "a profile");
      r.profiles.emplace_back();
      for (uint32_t k = 0; k < ranges.Length(); k++) r.profiles.back().push_back(rangeOf(env, object(env, ranges.Get(k), "a range")));
    }
  }
  r.stronglyTyped = given.Get("stronglyTyped").ToBoolean();
  r.workspace = whole("workspaceBytes", 1ull << 48);
  r.level = whole("optimizationLevel", 5);
  r.hardware = whole("hardwareCompatibility", 2);
  r.tactics = whole("tacticSources", 0xffffffff);
  r.streams = whole("maxAuxiliaryStreams", 128);
  r.verbosity = whole("profilingVerbosity", 2);
  const Napi::Value capabilities = given.Get("computeCapabilities");
  if (!capabilities.IsUndefined()) {
    if (!abi.has(abi.slots.BuilderConfig_setComputeCapability)) throw Napi::TypeError::New(env, "this TensorRT builds for the GPU that is there alone");
    const auto list = array(env, capabilities, "computeCapabilities");
    for (uint32_t i = 0; i < list.Length(); i++) r.capabilities.push_back(static_cast<int32_t>(number(env, list.Get(i), "a compute capability", 1000)));
  }
  const Slots& s = abi.slots;
  const std::pair<const char*, Slot> flags[] = {{"refit", s.BuilderFlag_refit},          {"refitIdentical", s.BuilderFlag_refitIdentical},
                                                {"stripPlan", s.BuilderFlag_stripPlan},  {"versionCompatible", s.BuilderFlag_versionCompatible},
                                                {"tf32", s.BuilderFlag_tf32},            {"sparseWeights", s.BuilderFlag_sparseWeights}};
  for (const auto& [name, flag] : flags) {
    const Napi::Value v = given.Get(name);
    if (!v.IsUndefined()) (v.ToBoolean() ? r.set : r.clear).push_back(flag);
  }
  const Napi::Value cache = given.Get("timingCache");
  if (!cache.IsUndefined()) {
    const Bytes bytes = bytesOf(env, cache);
    r.cached = true;
    r.cache.assign(bytes.data, bytes.data + bytes.length);
  }
  return r;
}

template <class T>
std::unique_ptr<T> modelTask(Napi::Env env, const Napi::Value& library, const Napi::Value& model, std::shared_ptr<Sink> sink) {
  Installation& i = installation(env, library);
  if (!i.hasParser()) throw Napi::TypeError::New(env, "the library was opened without a parser");
  auto task = std::make_unique<T>(env, i, std::move(sink));
  task->input = task->model(model);
  return task;
}

// build(library, model, request, listener | undefined): { promise, cancel }. The listener gets arrays of log lines and progress as they come.
Napi::Value StartBuild(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto given = object(env, info[2], "request");
  const Napi::Value level = given.Get("logLevel");
  auto sink = std::make_shared<Sink>(level.IsUndefined() ? kInfo : static_cast<int>(number(env, level, "logLevel", kVerbose)));
  auto task = modelTask<Build>(env, info[0], info[1], sink);
  task->request = requestOf(env, given, installation(env, info[0]).abi());
  task->stronglyTyped = task->request.stronglyTyped;
  task->on(given.Get("context"));
  if (info[3].IsFunction()) sink->listen(env, info[3].As<Napi::Function>());
  auto out = Napi::Object::New(env);
  out["promise"] = Task::start(std::move(task));
  out["cancel"] = Napi::Function::New(env, [sink](const Napi::CallbackInfo&) { sink->cancel(); }, "cancel");
  return out;
}

// supports(library, model, context | undefined): Promise<{ supported, subgraphs, errors, log }>
Napi::Value StartSupport(const Napi::CallbackInfo& info) {
  auto task = modelTask<Support>(info.Env(), info[0], info[1], std::make_shared<Sink>());
  task->on(info[2]);
  return Task::start(std::move(task));
}

class Rest : public Task {
 public:
  using Task::Task;

 protected:
  bool perform() override {
    library_.endBuilders();
    return true;
  }
};

// rest(library): Promise<void>. Builders that wait for work end; the next build makes one.
Napi::Value StartRest(const Napi::CallbackInfo& info) {
  return Task::start(std::make_unique<Rest>(info.Env(), installation(info.Env(), info[0]), std::make_shared<Sink>()));
}

}  // namespace

void registerBuild(Napi::Env env, Napi::Object exports) {
  exports["build"] = Napi::Function::New(env, StartBuild, "build");
  exports["supports"] = Napi::Function::New(env, StartSupport, "supports");
  exports["rest"] = Napi::Function::New(env, StartRest, "rest");
}

}  // namespace tensorrt
