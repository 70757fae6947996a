// TensorRT's objects behind the slots of their family: methods by name, nothing of NVIDIA's included. An object is a pointer to its own vtable
// and a pointer to its implementation, whose vtable most methods go through; the parser's objects have only the former.
#pragma once
#include <cstddef>
#include <cstdint>

#include "slots.h"

namespace tensorrt {

constexpr int kMaxDims = 8;
struct Dims {
  int32_t count = 0;
  int64_t d[kMaxDims] = {};
};
struct Weights {
  int32_t type;
  const void* values;
  int64_t count;
};
static_assert(sizeof(Dims) == 72 && sizeof(Weights) == 24, "these cross the interface by value");

// The slots of a library of some minor version.
struct Abi {
  Slots slots;
  int minor = 0;
  bool has(Slot s) const { return s.value >= 0 && minor >= s.since; }
};

template <class R, class... A>
R through(void* object, int slot, A... a) {
  void** const table = *static_cast<void***>(object);
  return reinterpret_cast<R (*)(void*, A...)>(table[slot])(object, a...);
}

// An object that TensorRT made; owned ones are deleted through the deleting destructor, whose slot is 1 unless said otherwise.
class Object {
 public:
  Object() = default;
  Object(const Abi& abi, void* object, int deleter = 1) : abi_(&abi), object_(object), deleter_(deleter) {}
  Object(Object&& o) noexcept : abi_(o.abi_), object_(o.object_), deleter_(o.deleter_) { o.object_ = nullptr; }
  Object& operator=(Object&& o) noexcept {
    if (this != &o) {
      reset();
      abi_ = o.abi_;
      object_ = o.object_;
      deleter_ = o.deleter_;
      o.object_ = nullptr;
    }
    return *this;
  }
  ~Object() { reset(); }
  void reset() {
    if (object_ != nullptr) through<void>(object_, deleter_);
    object_ = nullptr;
  }
  explicit operator bool() const { return object_ != nullptr; }
  void* get() const { return object_; }

 protected:
  const Slots& slots() const { return abi_->slots; }
  const Abi& abi() const { return *abi_; }
  // A method of the implementation, of the object's own vtable.
  template <class R, class... A>
  R inner(Slot s, A... a) const {
    return through<R>(static_cast<void**>(object_)[1], s.value, a...);
  }
  template <class R, class... A>
  R own(Slot s, A... a) const {
    return through<R>(object_, s.value, a...);
  }

 private:
  const Abi* abi_ = nullptr;
  void* object_ = nullptr;
  int deleter_ = 1;
};

struct HostMemory : Object {
  using Object::Object;
  const void* data() const { return inner<const void*>(slots().HostMemory_data); }
  size_t size() const { return inner<size_t>(slots().HostMemory_size); }
};

struct TimingCache : Object {
  using Object::Object;
  HostMemory serialize() const { return {abi(), inner<void*>(slots().TimingCache_serialize)}; }
};

// Deleted with its builder.
struct OptimizationProfile {
  const Abi* abi;
  void* object;
  bool setDimensions(const char* input, int32_t select, const Dims& dims) const { return call<bool>(abi->slots.OptimizationProfile_setDimensions, input, select, &dims); }
  bool setShapeValues(const char* input, int32_t select, const int64_t* values, int32_t count) const {
    if (abi->has(abi->slots.OptimizationProfile_setShapeValuesV2)) return call<bool>(abi->slots.OptimizationProfile_setShapeValuesV2, input, select, values, count);
    int32_t narrow[64] = {};
    if (count > 64) return false;
    for (int32_t i = 0; i < count; i++) narrow[i] = static_cast<int32_t>(values[i]);
    return call<bool>(abi->slots.OptimizationProfile_setShapeValues, input, select, static_cast<const int32_t*>(narrow), count);
  }

 private:
  template <class R, class... A>
  R call(Slot s, A... a) const {
    return through<R>(static_cast<void**>(object)[1], s.value, a...);
  }
};

struct BuilderConfig : Object {
  using Object::Object;
  void setFlag(Slot flag) const { inner<void>(slots().BuilderConfig_setFlag, static_cast<int32_t>(flag.value)); }
  void clearFlag(Slot flag) const { inner<void>(slots().BuilderConfig_clearFlag, static_cast<int32_t>(flag.value)); }
  int32_t addOptimizationProfile(const OptimizationProfile& p) const { return inner<int32_t>(slots().BuilderConfig_addOptimizationProfile, p.object); }
  void setProfilingVerbosity(int32_t v) const { inner<void>(slots().BuilderConfig_setProfilingVerbosity, v); }
  bool setTacticSources(uint32_t bits) const { return inner<bool>(slots().BuilderConfig_setTacticSources, bits); }
  TimingCache createTimingCache(const void* data, size_t size) const { return {abi(), inner<void*>(slots().BuilderConfig_createTimingCache, data, size)}; }
  bool setTimingCache(const TimingCache& cache) const { return inner<bool>(slots().BuilderConfig_setTimingCache, cache.get(), false); }
  void setWorkspace(size_t bytes) const { inner<void>(slots().BuilderConfig_setMemoryPoolLimit, int32_t{0}, bytes); }
  void setBuilderOptimizationLevel(int32_t level) const { inner<void>(slots().BuilderConfig_setBuilderOptimizationLevel, level); }
  void setHardwareCompatibilityLevel(int32_t level) const { inner<void>(slots().BuilderConfig_setHardwareCompatibilityLevel, level); }
  void setMaxAuxStreams(int32_t count) const { inner<void>(slots().BuilderConfig_setMaxAuxStreams, count); }
  void setProgressMonitor(void* monitor) const { inner<void>(slots().BuilderConfig_setProgressMonitor, monitor); }
  bool setNbComputeCapabilities(int32_t n) const { return inner<bool>(slots().BuilderConfig_setNbComputeCapabilities, n); }
  bool setComputeCapability(int32_t cc, int32_t i) const { return inner<bool>(slots().BuilderConfig_setComputeCapability, cc, i); }
};

struct Builder : Object {
  using Object::Object;
  void setErrorRecorder(void* recorder) const { inner<void>(slots().Builder_setErrorRecorder, recorder); }
  Object createNetwork(bool stronglyTyped) const { return {abi(), inner<void*>(slots().Builder_createNetworkV2, stronglyTyped ? uint32_t{1} << slots().NetworkFlag_stronglyTyped.value : uint32_t{0})}; }
  BuilderConfig createBuilderConfig() const { return {abi(), inner<void*>(slots().Builder_createBuilderConfig)}; }
  OptimizationProfile createOptimizationProfile() const { return {&abi(), inner<void*>(slots().Builder_createOptimizationProfile)}; }
  HostMemory build(const Object& network, const BuilderConfig& config) const { return {abi(), inner<void*>(slots().Builder_buildSerializedNetwork, network.get(), config.get())}; }
};

// Belongs to its parser.
struct ParserError {
  const Abi* abi;
  void* object;
  int32_t code() const { return through<int32_t>(object, abi->slots.ParserError_code.value); }
  int32_t node() const { return through<int32_t>(object, abi->slots.ParserError_node.value); }
  const char* desc() const { return through<const char*>(object, abi->slots.ParserError_desc.value); }
  const char* nodeName() const { return through<const char*>(object, abi->slots.ParserError_nodeName.value); }
  const char* nodeOperator() const { return through<const char*>(object, abi->slots.ParserError_nodeOperator.value); }
};

struct Parser : Object {
  Parser(const Abi& abi, void* object) : Object(abi, object, abi.slots.Parser_delete.value) {}
  bool parse(const void* model, size_t size) const { return own<bool>(slots().Parser_parse, model, size, static_cast<const char*>(nullptr)); }
  bool parseFromFile(const char* path, int32_t verbosity) const { return own<bool>(slots().Parser_parseFromFile, path, verbosity); }
  int32_t errors() const { return own<int32_t>(slots().Parser_getNbErrors); }
  ParserError error(int32_t i) const { return {&abi(), own<void*>(slots().Parser_getError, i)}; }
  bool canSupport() const { return abi().has(slots().Parser_supportsModelV2); }
  bool supportsModel(const void* model, size_t size, const char* path) const { return own<bool>(slots().Parser_supportsModelV2, model, size, path); }
  int64_t subgraphs() const { return own<int64_t>(slots().Parser_getNbSubgraphs); }
  bool subgraphSupported(int64_t i) const { return own<bool>(slots().Parser_isSubgraphSupported, i); }
  const int64_t* subgraphNodes(int64_t i, int64_t& count) const { return own<const int64_t*>(slots().Parser_getSubgraphNodes, i, &count); }
};

struct ParserRefitter : Object {
  ParserRefitter() = default;
  ParserRefitter(const Abi& abi, void* object) : Object(abi, object, abi.slots.ParserRefitter_delete.value) {}
  bool refit(const void* model, size_t size) const { return own<bool>(slots().ParserRefitter_refitFromBytes, model, size, static_cast<const char*>(nullptr)); }
  bool refitFromFile(const char* path) const { return own<bool>(slots().ParserRefitter_refitFromFile, path); }
  int32_t errors() const { return own<int32_t>(slots().ParserRefitter_getNbErrors); }
  ParserError error(int32_t i) const { return {&abi(), own<void*>(slots().ParserRefitter_getError, i)}; }
};

struct EngineInspector : Object {
  using Object::Object;
  const char* json() const { return inner<const char*>(slots().EngineInspector_getEngineInformation, int32_t{1}); }
};

struct ExecutionContext : Object {
  using Object::Object;
  void setProfiler(void* profiler) const { inner<void>(slots().ExecutionContext_setProfiler, profiler); }
  bool setOptimizationProfile(int32_t index, void* stream) const { return inner<bool>(slots().ExecutionContext_setOptimizationProfileAsync, index, stream); }
  bool setInputShape(const char* name, const Dims& dims) const { return inner<bool>(slots().ExecutionContext_setInputShape, name, &dims); }
  Dims tensorShape(const char* name) const { return inner<Dims>(slots().ExecutionContext_getTensorShape, name); }
  bool setTensorAddress(const char* name, void* address) const { return inner<bool>(slots().ExecutionContext_setTensorAddress, name, address); }
  int32_t inferShapes(int32_t count, const char** names) const { return inner<int32_t>(slots().ExecutionContext_inferShapes, count, names); }
  bool setOutputAllocator(const char* name, void* allocator) const { return inner<bool>(slots().ExecutionContext_setOutputAllocator, name, allocator); }
  bool enqueue(void* stream) const { return inner<bool>(slots().ExecutionContext_enqueueV3, stream); }
};

struct CudaEngine : Object {
  using Object::Object;
  int32_t layers() const { return inner<int32_t>(slots().CudaEngine_getNbLayers); }
  int32_t profiles() const { return inner<int32_t>(slots().CudaEngine_getNbOptimizationProfiles); }
  bool refittable() const { return inner<bool>(slots().CudaEngine_isRefittable); }
  int64_t deviceMemory() const {
    return abi().has(slots().CudaEngine_getDeviceMemorySizeV2) ? inner<int64_t>(slots().CudaEngine_getDeviceMemorySizeV2)
                                                               : static_cast<int64_t>(inner<size_t>(slots().CudaEngine_getDeviceMemorySize));
  }
  int32_t tensors() const { return inner<int32_t>(slots().CudaEngine_getNbIOTensors); }
  const char* tensorName(int32_t i) const { return inner<const char*>(slots().CudaEngine_getIOTensorName, i); }
  Dims tensorShape(const char* name) const { return inner<Dims>(slots().CudaEngine_getTensorShape, name); }
  int32_t tensorType(const char* name) const { return inner<int32_t>(slots().CudaEngine_getTensorDataType, name); }
  int32_t tensorLocation(const char* name) const { return inner<int32_t>(slots().CudaEngine_getTensorLocation, name); }
  int32_t tensorMode(const char* name) const { return inner<int32_t>(slots().CudaEngine_getTensorIOMode, name); }
  Dims profileShape(const char* name, int32_t profile, int32_t select) const { return inner<Dims>(slots().CudaEngine_getProfileShape, name, profile, select); }
  EngineInspector createInspector() const { return {abi(), inner<void*>(slots().CudaEngine_createEngineInspector)}; }
  ExecutionContext createContext() const { return {abi(), inner<void*>(slots().CudaEngine_createExecutionContext, int32_t{0})}; }
};

struct Runtime : Object {
  using Object::Object;
  void setErrorRecorder(void* recorder) const { inner<void>(slots().Runtime_setErrorRecorder, recorder); }
  void allowHostCode() const { inner<void>(slots().Runtime_setEngineHostCodeAllowed, true); }
  CudaEngine deserialize(const void* plan, size_t size) const { return {abi(), inner<void*>(slots().Runtime_deserializeCudaEngine, plan, size)}; }
};

struct Refitter : Object {
  using Object::Object;
  void setErrorRecorder(void* recorder) const { inner<void>(slots().Refitter_setErrorRecorder, recorder); }
  bool setNamedWeights(const char* name, const Weights& weights) const { return inner<bool>(slots().Refitter_setNamedWeights, name, weights); }
  int32_t missing(int32_t count, const char** names) const { return inner<int32_t>(slots().Refitter_getMissingWeights, count, names); }
  int32_t all(int32_t count, const char** names) const { return inner<int32_t>(slots().Refitter_getAllWeights, count, names); }
  bool refit() const { return inner<bool>(slots().Refitter_refitCudaEngine); }
};

}  // namespace tensorrt
