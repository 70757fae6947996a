// The stand-in's builder. Part of fake-tensorrt.cc.
#pragma once

struct BuilderConfig : Object<BuilderConfig> {
  static constexpr const char* kName = "BuilderConfig";
  static Table& table();
  std::vector<Profile> profiles;
  std::vector<int32_t> capabilities;
  uint32_t flags = 1u << VALUE_BuilderFlag_tf32;
  int32_t verbosity = 0;
  void* monitor = nullptr;
  void* recorder = nullptr;
  TimingCache* cache = nullptr;
};
METHOD(BuilderConfig, setFlag, void, int32_t flag) { SELF(BuilderConfig, setFlag); self.flags |= 1u << flag; }
METHOD(BuilderConfig, clearFlag, void, int32_t flag) { SELF(BuilderConfig, clearFlag); self.flags &= ~(1u << flag); }
METHOD(BuilderConfig, addOptimizationProfile, int32_t, const OptimizationProfile* p) {
  SELF(BuilderConfig, addOptimizationProfile);
  for (const auto& [name, r] : p->ranges)
    for (int i = 0; i < 3; i++)
      if (r.dims[i].count < 0) return -1;
  self.profiles.push_back(p->ranges);
  return int32_t(self.profiles.size()) - 1;
}
METHOD(BuilderConfig, setProfilingVerbosity, void, int32_t v) { SELF(BuilderConfig, setProfilingVerbosity); self.verbosity = v; }
METHOD(BuilderConfig, setTacticSources, bool, uint32_t bits) { SELF(BuilderConfig, setTacticSources); return bits < 32; }
METHOD(BuilderConfig, createTimingCache, void*, const void* data, size_t size) {
  SELF(BuilderConfig, createTimingCache);
  if (size > 0 && std::string(static_cast<const char*>(data), size).rfind("FAKECACHE", 0) != 0) return nullptr;
  auto* cache = make<TimingCache>("new TimingCache");
  if (cache != nullptr && size > 0) cache->bytes.assign(static_cast<const char*>(data), size);
  return cache;
}
METHOD(BuilderConfig, setTimingCache, bool, TimingCache* cache, bool) { SELF(BuilderConfig, setTimingCache); self.cache = cache; return true; }
METHOD(BuilderConfig, setMemoryPoolLimit, void, int32_t, size_t) { SELF(BuilderConfig, setMemoryPoolLimit); }
METHOD(BuilderConfig, setBuilderOptimizationLevel, void, int32_t) { SELF(BuilderConfig, setBuilderOptimizationLevel); }
METHOD(BuilderConfig, setHardwareCompatibilityLevel, void, int32_t) { SELF(BuilderConfig, setHardwareCompatibilityLevel); }
METHOD(BuilderConfig, setMaxAuxStreams, void, int32_t) { SELF(BuilderConfig, setMaxAuxStreams); }
METHOD(BuilderConfig, setProgressMonitor, void, void* m) { SELF(BuilderConfig, setProgressMonitor); self.monitor = m; }
METHOD(BuilderConfig, setNbComputeCapabilities, bool, int32_t n) { SELF(BuilderConfig, setNbComputeCapabilities); self.capabilities.resize(size_t(n)); return true; }
METHOD(BuilderConfig, setComputeCapability, bool, int32_t cc, int32_t i) {
  SELF(BuilderConfig, setComputeCapability);
  if (cc != 75 && cc != 86 && cc != 89 && cc < 120) {
    error(self.recorder, kInvalidArgument, "IBuilderConfig::setComputeCapability: Compute capability is invalid or not supported");
    return false;
  }
  self.capabilities[size_t(i)] = cc;
  return true;
}
Table& BuilderConfig::table() {
  static Table t = Table() PUT(BuilderConfig, setFlag) PUT(BuilderConfig, clearFlag) PUT(BuilderConfig, addOptimizationProfile) PUT(BuilderConfig, setProfilingVerbosity)
      PUT(BuilderConfig, setTacticSources) PUT(BuilderConfig, createTimingCache) PUT(BuilderConfig, setTimingCache) PUT(BuilderConfig, setMemoryPoolLimit)
          PUT(BuilderConfig, setBuilderOptimizationLevel) PUT(BuilderConfig, setHardwareCompatibilityLevel) PUT(BuilderConfig, setMaxAuxStreams)
              PUT(BuilderConfig, setProgressMonitor) PUT(BuilderConfig, setNbComputeCapabilities) PUT(BuilderConfig, setComputeCapability);
  return t;
}

// ---- plans: a header that tells version, length and hash, then profiles, flags and the model ----
struct PlanHeader {
  char magic[8];
  char family[8];
  int32_t version, profiles;
  uint32_t flags, verbosity;
  uint64_t bytes, hash;
};
inline uint64_t hashOf(const std::string& bytes) {
  uint64_t h = 1469598103934665603ull;
  for (const unsigned char c : bytes) h = (h ^ c) * 1099511628211ull;
  return h;
}
template <class T>
void put(std::string& to, const T& value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string planOf(const NetworkDefinition& network, const BuilderConfig& config) {
  std::string body;
  for (const Profile& p : config.profiles) {
    put(body, uint32_t(p.size()));
    for (const auto& [name, r] : p) {
      put(body, uint32_t(name.size()));
      body += name;
      put(body, r);
    }
  }
  body += network.bytes;
  PlanHeader h = {{'F', 'A', 'K', 'E', 'P', 'L', 'A', 'N'}, {}, VERSION, int32_t(config.profiles.size()), config.flags, uint32_t(config.verbosity), body.size(), hashOf(body)};
  strncpy(h.family, FAMILY, sizeof h.family - 1);
  std::string plan;
  put(plan, h);
  return plan + body;
}

struct Builder : Object<Builder>, Recorded {
  static constexpr const char* kName = "Builder";
  static Table& table();
  std::vector<std::unique_ptr<OptimizationProfile>> profiles;
};
METHOD(Builder, createBuilderConfig, void*) {
  SELF(Builder, createBuilderConfig);
  auto* config = make<BuilderConfig>("new BuilderConfig");
  if (config != nullptr) config->recorder = self.recorder;
  return config;
}
METHOD(Builder, createNetworkV2, void*, uint32_t flags) {
  SELF(Builder, createNetworkV2);
  record(("network flags " + std::to_string(flags)).c_str());
  return make<NetworkDefinition>("new NetworkDefinition");
}
METHOD(Builder, createOptimizationProfile, void*) {
  SELF(Builder, createOptimizationProfile);
  if (failing("new OptimizationProfile")) return nullptr;
  self.profiles.push_back(std::make_unique<OptimizationProfile>());
  return self.profiles.back().get();
}
METHOD(Builder, setErrorRecorder, void, void* r) { SELF(Builder, setErrorRecorder); self.keep(r); }

bool checkProfiles(const Model& m, const BuilderConfig& config, void* recorder) {
  for (const Value& v : m.inputs) {
    if (m.weights.count(v.name) > 0 || (!v.dims.open() && !isShape(m, v.name))) continue;
    if (config.profiles.empty()) {
      error(recorder, kInvalidConfig, "IBuilder::buildSerializedNetwork: Network has dynamic or shape inputs, but no optimization profile has been defined.");
      return false;
    }
    for (size_t i = 0; i < config.profiles.size(); i++) {
      const auto found = config.profiles[i].find(v.name);
      if (found != config.profiles[i].end() && (isShape(m, v.name) || found->second.dims[0].count == v.dims.count)) continue;
      error(recorder, kInvalidConfig, "IBuilder::buildSerializedNetwork: Dynamic input tensor " + v.name + " is missing dimensions in profile " + std::to_string(i));
      return false;
    }
  }
  return true;
}

METHOD(Builder, buildSerializedNetwork, void*, NetworkDefinition* network, BuilderConfig* config) {
  SELF(Builder, buildSerializedNetwork);
  if (failing("crash")) *reinterpret_cast<volatile int*>(8) = 1;
  if (failing("hang")) std::this_thread::sleep_for(std::chrono::hours(1));
  const Model& m = network->model;
  if (!checkProfiles(m, *config, self.recorder)) return nullptr;
  if (named(m, "fake:oom-build") != nullptr) {
    error(self.recorder, kFailedAllocation, "IBuilder::buildSerializedNetwork: OutOfMemory (Requested size was 68719476736 bytes.)");
    return nullptr;
  }
  if (const Node* n = named(m, "fake:fail-build")) {
    error(self.recorder, 10, "IBuilder::buildSerializedNetwork: Could not find any implementation for node " + n->name + ".");
    return nullptr;
  }
  // The log comes from threads of the library's own, as tactics are timed there.
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; t++)
    threads.emplace_back([t] {
      for (int i = 0; i < 50; i++) log(i == 0 ? kWarning : kInfo, "thread " + std::to_string(t) + ": tactic " + std::to_string(i));
    });
  bool going = true;
  std::thread monitor([&] {
    if (config->monitor == nullptr) return;
    app<void>(config->monitor, SLOT_ProgressMonitor_phaseStart, "Building Engine", static_cast<const char*>(nullptr), int32_t(m.nodes.size()));
    app<void>(config->monitor, SLOT_ProgressMonitor_phaseStart, "Timing", "Building Engine", int32_t(m.nodes.size()));
    // What the cache holds of a network of so many nodes is not timed again.
    const bool timed = config->cache != nullptr && config->cache->bytes == "FAKECACHE" + std::to_string(m.nodes.size());
    for (size_t i = 0; i < m.nodes.size() && going; i++) {
      const int pause = timed ? 0 : asked(m.nodes[i], "fake:slow:");
      if (pause > 0) std::this_thread::sleep_for(std::chrono::milliseconds(pause));
      going = app<bool>(config->monitor, SLOT_ProgressMonitor_stepComplete, "Timing", int32_t(i));
    }
    app<void>(config->monitor, SLOT_ProgressMonitor_phaseFinish, "Timing");
    app<void>(config->monitor, SLOT_ProgressMonitor_phaseFinish, "Building Engine");
  });
  for (auto& t : threads) t.join();
  monitor.join();
  if (!going) return nullptr;
  if (config->cache != nullptr) config->cache->bytes = "FAKECACHE" + std::to_string(m.nodes.size());
  auto* plan = make<HostMemory>("new HostMemory");
  if (plan != nullptr) plan->bytes = planOf(*network, *config);
  return plan;
}
Table& Builder::table() {
  static Table t = Table() PUT(Builder, createBuilderConfig) PUT(Builder, createNetworkV2) PUT(Builder, createOptimizationProfile) PUT(Builder, setErrorRecorder)
      PUT(Builder, buildSerializedNetwork);
  return t;
}
