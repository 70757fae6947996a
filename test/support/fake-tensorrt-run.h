// The stand-in's runtime: engines, execution contexts, refits. Part of fake-tensorrt.cc. Work goes through the stream of the CUDA driver that
// PARTITA_CUDA_DRIVER names, a stand-in too, whose device memory is host memory.
#pragma once

struct CudaEngine : Object<CudaEngine>, Recorded {
  static constexpr const char* kName = "CudaEngine";
  static Table& table();
  Model model;
  std::vector<Profile> profiles;
  uint32_t flags = 0, verbosity = 0;
  bool stripped = false;
  std::atomic<int> contexts{0};

  int32_t count() const { return int32_t(model.inputs.size() + model.outputs.size()); }
  const Value* at(int32_t i) const {
    const auto n = int32_t(model.inputs.size());
    return i < 0 || i >= count() ? nullptr : i < n ? &model.inputs[size_t(i)] : &model.outputs[size_t(i - n)];
  }
  const Value* find(const char* name) const {
    for (int32_t i = 0; i < count(); i++)
      if (at(i)->name == name) return at(i);
    error(recorder, kInvalidArgument, "given invalid tensor name: " + std::string(name));
    return nullptr;
  }
  bool isInput(const Value* v) const { return v >= model.inputs.data() && v < model.inputs.data() + model.inputs.size(); }
  Dims declared(const char* name) const {
    const Value* v = find(name);
    if (v == nullptr) return Dims();
    if (isInput(v)) return v->dims;
    std::map<std::string, Dims> dims;
    for (const Value& input : model.inputs) dims[input.name] = input.dims;
    inferDims(model, dims, {});
    Dims d = dims[name];
    if (named(model, "fake:data-dims") != nullptr && d.count > 0) d.d[0] = -1;
    return d;
  }
};

struct ExecutionContext : Object<ExecutionContext>, Recorded {
  static constexpr const char* kName = "ExecutionContext";
  static Table& table();
  CudaEngine* engine = nullptr;
  int32_t profile = 0;
  void* profiler = nullptr;
  std::map<std::string, Dims> shapes;
  std::map<std::string, void*> addresses;
  std::map<std::string, void*> allocators;
  struct Work {
    ExecutionContext* context;
    std::map<std::string, Dims> dims;
    std::map<std::string, void*> addresses;
  };
  std::vector<std::unique_ptr<Work>> work;  // graphs may run it again
  std::atomic<int> running{0};
  ~ExecutionContext() {
    if (engine != nullptr) engine->contexts--;
    if (running != 0) {
      fprintf(stderr, "a context was deleted while it runs\n");
      abort();
    }
  }
  std::map<std::string, std::vector<int64_t>> shapeValues() const {
    std::map<std::string, std::vector<int64_t>> out;
    for (const Value& v : engine->model.inputs) {
      const auto at = addresses.find(v.name);
      const auto dims = shapes.find(v.name);
      if (!isShape(engine->model, v.name) || at == addresses.end() || at->second == nullptr || dims == shapes.end()) continue;
      const auto* values = static_cast<const int64_t*>(at->second);
      out[v.name].assign(values, values + dims->second.size());
    }
    return out;
  }
  bool infer(std::map<std::string, Dims>& dims) const {
    dims = shapes;
    return inferDims(engine->model, dims, shapeValues());
  }
};

METHOD(ExecutionContext, setProfiler, void, void* p) { SELF(ExecutionContext, setProfiler); self.profiler = p; }
METHOD(ExecutionContext, setOptimizationProfileAsync, bool, int32_t i, void*) {
  SELF(ExecutionContext, setOptimizationProfileAsync);
  if (i < 0 || i >= int32_t(std::max<size_t>(self.engine->profiles.size(), 1))) return false;
  self.profile = i;
  return true;
}
METHOD(ExecutionContext, setInputShape, bool, const char* name, const Dims* dims) {
  SELF(ExecutionContext, setInputShape);
  const Value* v = self.engine->find(name);
  if (v == nullptr || !self.engine->isInput(v) || dims->count != v->dims.count) {
    error(self.recorder, kInvalidArgument, "IExecutionContext::setInputShape: the rank of " + std::string(name) + " does not match");
    return false;
  }
  const auto& profiles = self.engine->profiles;
  for (int i = 0; i < dims->count; i++) {
    bool inside = v->dims.d[i] < 0 || v->dims.d[i] == dims->d[i];
    if (v->dims.d[i] < 0 && !profiles.empty()) {
      const auto range = profiles[size_t(self.profile)].find(name);
      if (range != profiles[size_t(self.profile)].end()) inside = dims->d[i] >= range->second.dims[0].d[i] && dims->d[i] <= range->second.dims[2].d[i];
    }
    if (inside) continue;
    error(self.recorder, kInvalidArgument, "IExecutionContext::setInputShape: Supplied binding dimension for " + std::string(name) + " exceeds the profile's min ~ max");
    return false;
  }
  self.shapes[name] = *dims;
  return true;
}
METHOD(ExecutionContext, getTensorShape, Dims, const char* name) {
  SELF(ExecutionContext, getTensorShape);
  std::map<std::string, Dims> dims;
  self.infer(dims);
  Dims d = dims[name];
  if (named(self.engine->model, "fake:data-dims") != nullptr && self.shapes.count(name) == 0 && d.count > 0) d.d[0] = -1;
  return d;
}
METHOD(ExecutionContext, setTensorAddress, bool, const char* name, void* address) {
  SELF(ExecutionContext, setTensorAddress);
  if (self.engine->find(name) == nullptr) return false;
  self.addresses[name] = address;
  return true;
}
METHOD(ExecutionContext, setOutputAllocator, bool, const char* name, void* allocator) {
  SELF(ExecutionContext, setOutputAllocator);
  const Value* v = self.engine->find(name);
  if (v == nullptr || self.engine->isInput(v)) return false;
  if (allocator == nullptr) self.allocators.erase(name);
  else self.allocators[name] = allocator;
  return true;
}
METHOD(ExecutionContext, inferShapes, int32_t, int32_t most, const char** names) {
  SELF(ExecutionContext, inferShapes);
  int32_t missing = 0;
  for (const Value& v : self.engine->model.inputs)
    if (v.dims.open() && self.shapes.count(v.name) == 0) {
      if (missing < most) names[missing] = v.name.c_str();
      missing++;
    } else if (!v.dims.open()) {
      self.shapes[v.name] = v.dims;
    }
  std::map<std::string, Dims> dims;
  return missing > 0 ? missing : self.infer(dims) ? 0 : -1;
}

void perform(void* given) {
  auto& work = *static_cast<ExecutionContext::Work*>(given);
  ExecutionContext& c = *work.context;
  c.running++;
  const Model& m = c.engine->model;
  Tensors tensors;
  for (const auto& [name, w] : m.weights) tensors[name] = {w.first, {}, const_cast<float*>(w.second.data())};
  for (const Value& v : m.inputs) tensors[v.name] = {work.dims[v.name], {}, static_cast<float*>(work.addresses[v.name])};
  for (const Node& n : m.nodes) {
    Tensor out{work.dims[n.out[0]], {}, nullptr};
    for (const Value& v : m.outputs)
      if (v.name == n.out[0]) out.data = static_cast<float*>(work.addresses[v.name]);
    Tensor& kept = tensors[n.out[0]] = std::move(out);
    if (kept.data == nullptr) {
      kept.own.resize(size_t(kept.dims.size()));
      kept.data = kept.own.data();
    }
    const auto start = std::chrono::steady_clock::now();
    compute(n, tensors);
    const std::chrono::duration<float, std::milli> took = std::chrono::steady_clock::now() - start;
    if (c.profiler != nullptr) app<void>(c.profiler, SLOT_Profiler_reportLayerTime, n.name.c_str(), took.count());
  }
  c.running--;
}
// What TensorRT 10.6 asks for; the driver's memory is aligned to half of that.
constexpr size_t kOutputAlignment = 512;
// The stand-in's operator whose result the data decides: of a model with a node that is named fake:data-dims, the rows whose first element is not zero.
// As TensorRT does, it waits for the stream, asks for memory, and tells the dims, all inside enqueueV3.
bool allocated(ExecutionContext& self, ExecutionContext::Work& work, void* stream) {
  const Value& v = self.engine->model.outputs[0];
  Dims d = work.dims[v.name];
  std::vector<float> full(size_t(d.size())), kept;
  work.addresses[v.name] = full.data();
  perform(&work);
  const int64_t width = d.d[0] == 0 ? 0 : d.size() / d.d[0];
  for (int64_t row = 0; row < d.d[0]; row++)
    if (width > 0 && full[size_t(row * width)] != 0) kept.insert(kept.end(), full.begin() + row * width, full.begin() + (row + 1) * width);
  d.d[0] = width == 0 ? 0 : int64_t(kept.size()) / width;
  void* const allocator = self.allocators[v.name];
  void* const memory = app<void*>(allocator, SLOT_OutputAllocator_reallocateOutputAsync, v.name.c_str(), static_cast<void*>(nullptr), uint64_t(std::max<size_t>(kept.size() * 4, 1)), uint64_t(kOutputAlignment), stream);
  if (memory == nullptr || reinterpret_cast<uintptr_t>(memory) % kOutputAlignment != 0) {
    error(self.recorder, kFailedExecution, "IExecutionContext::enqueueV3: no memory was given for output " + v.name);
    return false;
  }
  memcpy(memory, kept.data(), kept.size() * 4);
  if (named(self.engine->model, "fake:data-dims:untold") == nullptr) app<void>(allocator, SLOT_OutputAllocator_notifyShape, v.name.c_str(), static_cast<const Dims*>(&d));
  return true;
}
METHOD(ExecutionContext, enqueueV3, bool, void* stream) {
  SELF(ExecutionContext, enqueueV3);
  auto work = std::make_unique<ExecutionContext::Work>();
  work->context = &self;
  work->addresses = self.addresses;
  if (!self.infer(work->dims) || named(self.engine->model, "fake:fail-run") != nullptr) {
    error(self.recorder, kFailedExecution, "IExecutionContext::enqueueV3: Cask (Cask Gemm execution)");
    return false;
  }
  for (int32_t i = 0; i < self.engine->count(); i++)
    if (work->addresses[self.engine->at(i)->name] == nullptr && self.allocators.count(self.engine->at(i)->name) == 0) {
      error(self.recorder, kInvalidArgument, "Address is not set for tensor " + self.engine->at(i)->name);
      return false;
    }
  void* const library = getenv("PARTITA_CUDA_DRIVER") == nullptr ? nullptr : dlopen(getenv("PARTITA_CUDA_DRIVER"), RTLD_NOW | RTLD_NOLOAD);
  auto* const launch = library == nullptr ? nullptr : reinterpret_cast<int (*)(void*, void (*)(void*), void*)>(dlsym(library, "cuLaunchHostFunc"));
  auto* const wait = library == nullptr ? nullptr : reinterpret_cast<int (*)(void*)>(dlsym(library, "cuStreamSynchronize"));
  if (library != nullptr) dlclose(library);
  if (!self.allocators.empty()) {
    if (wait != nullptr && wait(stream) != 0) return false;
    return allocated(self, *work, stream);
  }
  auto* const kept = work.get();
  self.work.push_back(std::move(work));
  if (launch != nullptr) return launch(stream, perform, kept) == 0;
  perform(kept);
  return true;
}
Table& ExecutionContext::table() {
  // NVIDIA's Python bindings ask for the engine to count its tensors.
  static Table t = Table().set(7, +[](ExecutionContext::Inner* inner) { return inner->self->engine; }) PUT(ExecutionContext, setProfiler) PUT(ExecutionContext, setOptimizationProfileAsync) PUT(ExecutionContext, setInputShape)
      PUT(ExecutionContext, getTensorShape) PUT(ExecutionContext, setTensorAddress) PUT(ExecutionContext, inferShapes) PUT(ExecutionContext, setOutputAllocator) PUT(ExecutionContext, enqueueV3);
  return t;
}

struct EngineInspector : Object<EngineInspector> {
  static constexpr const char* kName = "EngineInspector";
  static Table& table();
  std::string json;
};
METHOD(EngineInspector, getEngineInformation, const char*, int32_t format) { SELF(EngineInspector, getEngineInformation); return format == 1 ? self.json.c_str() : ""; }
Table& EngineInspector::table() {
  static Table t = Table() PUT(EngineInspector, getEngineInformation);
  return t;
}

METHOD(CudaEngine, getNbLayers, int32_t) { SELF(CudaEngine, getNbLayers); return int32_t(self.model.nodes.size()); }
METHOD(CudaEngine, createExecutionContext, void*, int32_t) {
  SELF(CudaEngine, createExecutionContext);
  if (named(self.model, "fake:die-in-context") != nullptr) *reinterpret_cast<volatile int*>(8) = 1;
  if (named(self.model, "fake:oom-context") != nullptr) {
    error(self.recorder, kFailedAllocation, "ICudaEngine::createExecutionContext: OutOfMemory (Requested size was 1073741824 bytes.)");
    return nullptr;
  }
  auto* c = make<ExecutionContext>("new ExecutionContext");
  if (c == nullptr) return nullptr;
  c->engine = &self;
  c->keep(self.recorder);
  self.contexts++;
  return c;
}
METHOD(CudaEngine, getDeviceMemorySize, size_t) { SELF(CudaEngine, getDeviceMemorySize); return 4096; }
METHOD(CudaEngine, getDeviceMemorySizeV2, int64_t) { SELF(CudaEngine, getDeviceMemorySizeV2); return 4096; }
METHOD(CudaEngine, isRefittable, bool) {
  SELF(CudaEngine, isRefittable);
  return (self.flags & (1u << VALUE_BuilderFlag_refit | 1u << VALUE_BuilderFlag_refitIdentical | 1u << VALUE_BuilderFlag_stripPlan)) != 0;
}
METHOD(CudaEngine, getNbOptimizationProfiles, int32_t) { SELF(CudaEngine, getNbOptimizationProfiles); return std::max(int32_t(self.profiles.size()), 1); }
METHOD(CudaEngine, createEngineInspector, void*) {
  SELF(CudaEngine, createEngineInspector);
  auto* i = make<EngineInspector>("new EngineInspector");
  if (i == nullptr) return nullptr;
  for (const Node& n : self.model.nodes) i->json += (i->json.empty() ? "" : ",") + ("\"" + n.name + "\"");
  i->json = "{\"Layers\":[" + i->json + "],\"Verbosity\":" + std::to_string(self.verbosity) + "}";
  return i;
}
METHOD(CudaEngine, getTensorShape, Dims, const char* name) { SELF(CudaEngine, getTensorShape); return self.declared(name); }
METHOD(CudaEngine, getTensorDataType, int32_t, const char* name) { SELF(CudaEngine, getTensorDataType); const Value* v = self.find(name); return v == nullptr ? 0 : v->type; }
METHOD(CudaEngine, getTensorLocation, int32_t, const char* name) { SELF(CudaEngine, getTensorLocation); return isShape(self.model, name) ? 1 : 0; }
METHOD(CudaEngine, getTensorIOMode, int32_t, const char* name) { SELF(CudaEngine, getTensorIOMode); const Value* v = self.find(name); return v == nullptr ? 0 : self.isInput(v) ? 1 : 2; }
METHOD(CudaEngine, getProfileShape, Dims, const char* name, int32_t profile, int32_t select) {
  SELF(CudaEngine, getProfileShape);
  if (size_t(profile) >= self.profiles.size() || self.profiles[size_t(profile)].count(name) == 0) return Dims();
  return self.profiles[size_t(profile)][name].dims[select];
}
METHOD(CudaEngine, getNbIOTensors, int32_t) { SELF(CudaEngine, getNbIOTensors); return self.count(); }
METHOD(CudaEngine, getIOTensorName, const char*, int32_t i) { SELF(CudaEngine, getIOTensorName); return self.at(i) == nullptr ? nullptr : self.at(i)->name.c_str(); }
Table& CudaEngine::table() {
  static Table t = Table() PUT(CudaEngine, getNbLayers) PUT(CudaEngine, createExecutionContext) PUT(CudaEngine, getDeviceMemorySize) PUT(CudaEngine, getDeviceMemorySizeV2)
      PUT(CudaEngine, isRefittable) PUT(CudaEngine, getNbOptimizationProfiles) PUT(CudaEngine, createEngineInspector) PUT(CudaEngine, getTensorShape)
          PUT(CudaEngine, getTensorDataType) PUT(CudaEngine, getTensorLocation) PUT(CudaEngine, getTensorIOMode) PUT(CudaEngine, getProfileShape) PUT(CudaEngine, getNbIOTensors)
              PUT(CudaEngine, getIOTensorName);
  return t;
}

struct Runtime : Object<Runtime>, Recorded {
  static constexpr const char* kName = "Runtime";
  static Table& table();
};
METHOD(Runtime, setErrorRecorder, void, void* r) { SELF(Runtime, setErrorRecorder); self.keep(r); }
METHOD(Runtime, setEngineHostCodeAllowed, void, bool) { SELF(Runtime, setEngineHostCodeAllowed); }
METHOD(Runtime, deserializeCudaEngine, void*, const void* data, size_t size) {
  SELF(Runtime, deserializeCudaEngine);
  const auto refuse = [&](const std::string& why) {
    error(self.recorder, 1, "IRuntime::deserializeCudaEngine: Serialization (" + why + ")");
    return nullptr;
  };
  PlanHeader h;
  if (size < sizeof h) return refuse("the blob is shorter than a header");
  memcpy(&h, data, sizeof h);
  if (memcmp(h.magic, "FAKEPLAN", 8) != 0) return refuse("header.magicTag == kEXPECTED_MAGIC_TAG failed");
  if (strncmp(h.family, FAMILY, 8) != 0 || h.version != VERSION) return refuse("The engine plan file is not compatible with this version of TensorRT, expecting library version " + std::to_string(VERSION) + " got " + std::to_string(h.version));
  const std::string body(static_cast<const char*>(data) + sizeof h, size - sizeof h);
  if (h.bytes != body.size()) return refuse("plan.header.size == blobSize failed");
  if (h.hash != hashOf(body)) return refuse("checksum failed");
  auto e = std::unique_ptr<CudaEngine>(make<CudaEngine>("new CudaEngine"));
  if (e == nullptr) return nullptr;
  e->keep(self.recorder);
  size_t at = 0;
  const auto get = [&](void* to, size_t bytes) {
    if (bytes > body.size() - at) return false;
    memcpy(to, body.data() + at, bytes);
    at += bytes;
    return true;
  };
  for (int32_t i = 0; i < h.profiles; i++) {
    Profile p;
    uint32_t entries = 0;
    if (!get(&entries, 4)) return refuse("truncated");
    for (uint32_t k = 0; k < entries; k++) {
      uint32_t length = 0;
      Ranges r;
      if (!get(&length, 4) || length > body.size() - at) return refuse("truncated");
      const std::string name(body, at, length);
      at += length;
      if (!get(&r, sizeof r)) return refuse("truncated");
      p[name] = r;
    }
    e->profiles.push_back(p);
  }
  e->flags = h.flags;
  e->verbosity = h.verbosity;
  if (!readModel(body.data() + at, body.size() - at, e->model)) return refuse("no network");
  if (named(e->model, "fake:hang-on-load") != nullptr) std::this_thread::sleep_for(std::chrono::hours(1));
  if (named(e->model, "fake:die-on-load") != nullptr) {
    fprintf(stderr, "LLVM ERROR: out of memory\n");
    abort();
  }
  auto& inputs = e->model.inputs;
  inputs.erase(std::remove_if(inputs.begin(), inputs.end(), [&](const Value& v) { return e->model.weights.count(v.name) > 0; }), inputs.end());
  e->stripped = (h.flags >> VALUE_BuilderFlag_stripPlan & 1) != 0;
  if (e->stripped)
    for (auto& [name, w] : e->model.weights) std::fill(w.second.begin(), w.second.end(), 0.0f);
  log(kInfo, "Loaded engine size: " + std::to_string(size) + " bytes");
  return e.release();
}
Table& Runtime::table() {
  static Table t = Table() PUT(Runtime, setErrorRecorder) PUT(Runtime, setEngineHostCodeAllowed) PUT(Runtime, deserializeCudaEngine);
  return t;
}

// ---- refits ----
struct Weights {
  int32_t type;
  const void* values;
  int64_t count;
};
struct Refitter : Object<Refitter>, Recorded {
  static constexpr const char* kName = "Refitter";
  static Table& table();
  CudaEngine* engine = nullptr;
  // Where the values lie that it was told of: as TensorRT's, it reads them when the engine is refitted, not before.
  struct Given {
    const float* values;
    size_t count;
  };
  std::map<std::string, Given> given;
  std::vector<const char*> missing() const {
    std::vector<const char*> out;
    for (const auto& [name, w] : engine->model.weights)
      if (engine->stripped && given.count(name) == 0) out.push_back(name.c_str());
    return out;
  }
};
METHOD(Refitter, setErrorRecorder, void, void* r) { SELF(Refitter, setErrorRecorder); self.keep(r); }
METHOD(Refitter, setNamedWeights, bool, const char* name, Weights w) {
  SELF(Refitter, setNamedWeights);
  const auto found = self.engine->model.weights.find(name);
  if (found == self.engine->model.weights.end() || w.type != 0 || w.count != int64_t(found->second.second.size())) {
    error(self.recorder, kInvalidArgument, "IRefitter::setNamedWeights: " + std::string(name) + " has other weights");
    return false;
  }
  self.given[name] = {static_cast<const float*>(w.values), size_t(w.count)};
  return true;
}
METHOD(Refitter, getMissingWeights, int32_t, int32_t size, const char** names) {
  SELF(Refitter, getMissingWeights);
  const auto list = self.missing();
  for (int32_t i = 0; i < size && size_t(i) < list.size(); i++) names[i] = list[size_t(i)];
  return int32_t(list.size());
}
METHOD(Refitter, getAllWeights, int32_t, int32_t size, const char** names) {
  SELF(Refitter, getAllWeights);
  int32_t i = 0;
  for (const auto& [name, w] : self.engine->model.weights) {
    if (i < size) names[i] = name.c_str();
    i++;
  }
  return i;
}
METHOD(Refitter, refitCudaEngine, bool) {
  SELF(Refitter, refitCudaEngine);
  if (!self.missing().empty()) {
    error(self.recorder, kInvalidConfig, "IRefitter::refitCudaEngine: missing weights " + std::string(self.missing()[0]));
    return false;
  }
  for (auto& [name, g] : self.given) self.engine->model.weights[name].second.assign(g.values, g.values + g.count);
  self.engine->stripped = false;
  return true;
}
Table& Refitter::table() {
  static Table t = Table() PUT(Refitter, setErrorRecorder) PUT(Refitter, setNamedWeights) PUT(Refitter, getMissingWeights) PUT(Refitter, getAllWeights) PUT(Refitter, refitCudaEngine);
  return t;
}

struct ParserRefitter {
  void** outer = table().slots;
  Refitter* refitter = nullptr;
  std::vector<std::unique_ptr<ParserError>> errors;
  // The last model's: what the refitter was told of lies in it.
  Model m;
  // Who reads the values afterwards shall see it, also where memory is not used again at once.
  ~ParserRefitter() {
    for (auto& [name, w] : m.weights) std::fill(w.second.begin(), w.second.end(), std::numeric_limits<float>::quiet_NaN());
  }
  bool refit(const std::string& bytes) {
    m = Model();
    if (!readModel(bytes.data(), bytes.size(), m)) {
      errors.push_back(std::make_unique<ParserError>(3, "Failed to parse the ONNX model."));
      return false;
    }
    for (auto& [name, w] : m.weights) {
      const auto found = refitter->engine->model.weights.find(name);
      if (found == refitter->engine->model.weights.end() || found->second.second.size() != w.second.size()) {
        errors.push_back(std::make_unique<ParserError>(14, "the engine has no weights like " + name));
        return false;
      }
      refitter->given[name] = {w.second.data(), w.second.size()};
    }
    return true;
  }
  static Table& table() {
    static Table t = Table()
                         .set(SLOT_ParserRefitter_refitFromBytes, +[](ParserRefitter* p, const void* data, size_t size, const char*) {
                           record("ParserRefitter.refitFromBytes");
                           return p->refit(std::string(static_cast<const char*>(data), size));
                         })
                         .set(SLOT_ParserRefitter_refitFromFile, +[](ParserRefitter* p, const char* path) {
                           std::string bytes;
                           return fileBytes(path, bytes) && p->refit(bytes);
                         })
                         .set(SLOT_ParserRefitter_getNbErrors, +[](ParserRefitter* p) { return int32_t(p->errors.size()); })
                         .set(SLOT_ParserRefitter_getError, +[](ParserRefitter* p, int32_t i) { return p->errors[size_t(i)].get(); })
                         .set(SLOT_ParserRefitter_delete, +[](ParserRefitter* p) {
                           record("delete ParserRefitter");
                           delete p;
                         });
    return t;
  }
};
