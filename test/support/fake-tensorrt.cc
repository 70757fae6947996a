// A stand-in for a TensorRT library and its ONNX parser over host memory, for tests where there is neither: the same C symbols, the same slots
// (table.h is made of native/tensorrt/slots.txt for one family), a few operators. A slot that nothing fills ends the process with its number.
// FAKE_TENSORRT_CALLS names a file that gets a line for every call; FAKE_TENSORRT_FAIL lists functions that give nothing, "crash" and "hang" for a
// build that does; FAKE_TENSORRT_VERSION is another version to claim. A node's name asks for trouble in a build or a run: fake:slow:30, fake:fail-build, fake:oom-build, fake:fail-run, fake:oom-context, fake:data-dims; when its plan is loaded:
// fake:die-on-load, fake:hang-on-load, fake:die-in-context.
#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <mutex>
#include <typeinfo>
#include <utility>

#include "fake-tensorrt-model.h"
#include "table.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum Severity { kError = 1, kWarning = 2, kInfo = 3, kVerbose = 4 };
enum ErrorCode { kInvalidArgument = 3, kInvalidConfig = 4, kFailedAllocation = 5, kFailedExecution = 7 };

void record(const char* what) {
  const char* file = getenv("FAKE_TENSORRT_CALLS");
  if (file == nullptr) return;
  if (FILE* f = fopen(file, "a")) {
    fprintf(f, "%s\n", what);
    fclose(f);
  }
}
bool failing(const char* what) {
  const char* list = getenv("FAKE_TENSORRT_FAIL");
  return list != nullptr && ("," + std::string(list) + ",").find("," + std::string(what) + ",") != std::string::npos;
}

// ---- the application's objects, through their vtables ----
template <class R, class... A>
R app(void* object, int slot, A... a) {
  return reinterpret_cast<R (*)(void*, A...)>((*static_cast<void***>(object))[slot])(object, a...);
}
// TensorRT keeps the first logger for everything.
std::atomic<void*> logger{nullptr};
void log(int severity, const std::string& text) {
  if (void* l = logger) app<void>(l, SLOT_Logger_log, int32_t(severity), text.c_str());
}
// To the recorder where there is one, otherwise to the log: as TensorRT does.
void error(void* recorder, int code, const std::string& text) {
  const std::string full = "Error Code " + std::to_string(code) + ": " + text;
  if (recorder != nullptr)
    app<bool>(recorder, SLOT_ErrorRecorder_reportError, int32_t(code), full.c_str());
  else
    log(kError, full);
}

// ---- vtables ----
struct AnyClass {
  virtual ~AnyClass() = default;
};
template <int I>
void unfilled() {
  fprintf(stderr, "the stand-in for TensorRT " FAMILY " has nothing in slot %d\n", I);
  abort();
}
struct Table {
  // What lies before a vtable: the offset to the top, and run-time type information, which pybind11 looks at.
  const void* head[2] = {nullptr, &typeid(AnyClass)};
  void* slots[96];
  Table() { fill(std::make_integer_sequence<int, 96>{}); }
  template <int... I>
  void fill(std::integer_sequence<int, I...>) {
    ((slots[I] = reinterpret_cast<void*>(unfilled<I>)), ...);
  }
  template <class F>
  Table& set(int slot, F* f) {
    if (slot >= 0) slots[slot] = reinterpret_cast<void*>(f);
    return *this;
  }
};

// An object as TensorRT lays it out: its vtable, its implementation; the implementation's vtable. `Self` holds the state.
template <class Self>
struct Object {
  struct Inner {
    void** table;
    Self* self;
  };
  void** outer;
  Inner* implementation;
  Inner inner;
  Object() {
    outer = destructors().slots;
    inner = {Self::table().slots, static_cast<Self*>(this)};
    implementation = &inner;
  }
  static Table& destructors() {
    static Table t = Table().set(0, +[](Self*) {}).set(1, +[](Self* s) {
      record((std::string("delete ") + Self::kName).c_str());
      delete s;
    });
    return t;
  }
};
#define METHOD(Class, name, result, ...) \
  static result Class##_##name(Class::Inner* inner __VA_OPT__(, ) __VA_ARGS__)
#define SELF(Class, name)                     \
  [[maybe_unused]] Class& self = *inner->self; \
  record(#Class "." #name)
#define PUT(Class, name) .set(SLOT_##Class##_##name, Class##_##name)

template <class T>
T* make(const char* function) {
  record(function);
  if (!failing(function)) return new T;
  record((std::string("failing ") + function).c_str());
  return nullptr;
}

struct Recorded {
  void* recorder = nullptr;
  void keep(void* given) {
    if (recorder != nullptr) app<int32_t>(recorder, SLOT_ErrorRecorder_decRefCount);
    recorder = given;
    if (recorder != nullptr) app<int32_t>(recorder, SLOT_ErrorRecorder_incRefCount);
  }
  ~Recorded() { keep(nullptr); }
};

// ---- memory, profiles, caches ----
struct HostMemory : Object<HostMemory> {
  static constexpr const char* kName = "HostMemory";
  static Table& table();
  std::string bytes;
};
METHOD(HostMemory, data, const void*) { SELF(HostMemory, data); return self.bytes.data(); }
METHOD(HostMemory, size, size_t) { SELF(HostMemory, size); return self.bytes.size(); }
Table& HostMemory::table() {
  // NVIDIA's Python bindings ask for the type of the elements too: bytes.
  static Table t = Table() PUT(HostMemory, data) PUT(HostMemory, size).set(4, +[](HostMemory::Inner*) { return int32_t(2); });
  return t;
}

struct TimingCache : Object<TimingCache> {
  static constexpr const char* kName = "TimingCache";
  static Table& table();
  std::string bytes = "FAKECACHE";
};
METHOD(TimingCache, serialize, void*) {
  SELF(TimingCache, serialize);
  auto* out = make<HostMemory>("new HostMemory");
  if (out != nullptr) out->bytes = self.bytes;
  return out;
}
Table& TimingCache::table() {
  static Table t = Table() PUT(TimingCache, serialize);
  return t;
}

struct Ranges {
  Dims dims[3];
};
using Profile = std::map<std::string, Ranges>;
struct OptimizationProfile : Object<OptimizationProfile> {
  static constexpr const char* kName = "OptimizationProfile";
  static Table& table();
  Profile ranges;
};
METHOD(OptimizationProfile, setDimensions, bool, const char* name, int32_t select, const Dims* dims) {
  SELF(OptimizationProfile, setDimensions);
  if (dims->count < 0 || dims->count > 8 || select < 0 || select > 2) return false;
  self.ranges[name].dims[select] = *dims;
  return true;
}
template <class T>
bool shapeValues(OptimizationProfile& self, const char* name, int32_t select, const T* values, int32_t count) {
  Dims d;
  d.count = count;
  std::copy(values, values + count, d.d);
  self.ranges[name].dims[select] = d;
  return true;
}
METHOD(OptimizationProfile, setShapeValues, bool, const char* name, int32_t select, const int32_t* values, int32_t count) {
  SELF(OptimizationProfile, setShapeValues);
  return shapeValues(self, name, select, values, count);
}
METHOD(OptimizationProfile, setShapeValuesV2, bool, const char* name, int32_t select, const int64_t* values, int32_t count) {
  SELF(OptimizationProfile, setShapeValuesV2);
  return shapeValues(self, name, select, values, count);
}
Table& OptimizationProfile::table() {
  static Table t = Table() PUT(OptimizationProfile, setDimensions) PUT(OptimizationProfile, setShapeValues) PUT(OptimizationProfile, setShapeValuesV2);
  return t;
}

// ---- network, parser ----
struct NetworkDefinition : Object<NetworkDefinition> {
  static constexpr const char* kName = "NetworkDefinition";
  static Table& table() {
    static Table t;
    return t;
  }
  std::string bytes;
  Model model;
};

struct ParserError {
  void** outer = table().slots;
  int32_t errorCode, index;
  std::string text, nodeName, op;
  ParserError(int32_t code, std::string text, int32_t index = -1, std::string nodeName = "", std::string op = "")
      : errorCode(code), index(index), text(std::move(text)), nodeName(std::move(nodeName)), op(std::move(op)) {}
  static Table& table() {
    static Table t = Table()
                         .set(SLOT_ParserError_code, +[](ParserError* e) { return e->errorCode; })
                         .set(SLOT_ParserError_desc, +[](ParserError* e) { return e->text.c_str(); })
                         .set(SLOT_ParserError_node, +[](ParserError* e) { return e->index; })
                         .set(SLOT_ParserError_nodeName, +[](ParserError* e) { return e->nodeName.c_str(); })
                         .set(SLOT_ParserError_nodeOperator, +[](ParserError* e) { return e->op.c_str(); });
    return t;
  }
};

struct Parser {
  void** outer = table().slots;
  NetworkDefinition* network;
  std::vector<std::unique_ptr<ParserError>> errors;
  struct Subgraph {
    bool supported;
    std::vector<int64_t> nodes;
  };
  std::vector<Subgraph> subgraphs;
  static Table& table();

  bool read(const std::string& bytes, Model& model) {
    errors.clear();
    if (!readModel(bytes.data(), bytes.size(), model)) {
      errors.push_back(std::make_unique<ParserError>(3, "Failed to parse the ONNX model."));
      log(kError, "(deserializeOnnxModel): Failed to parse the ONNX model.");
      return false;
    }
    for (size_t i = 0; i < model.nodes.size(); i++) {
      const Node& n = model.nodes[i];
      if (known(n.op)) continue;
      errors.push_back(std::make_unique<ParserError>(8, "no importer registered for op: " + n.op, int32_t(i), n.name, n.op));
      log(kError, "In node " + std::to_string(i) + " with name: " + n.name + ": no importer registered for op: " + n.op);
    }
    return errors.empty();
  }
  bool parse(const std::string& bytes) {
    network->bytes = bytes;
    network->model = Model();
    log(kInfo, "Parsing a model of " + std::to_string(bytes.size()) + " bytes");
    return read(bytes, network->model);
  }
};
bool fileBytes(const char* path, std::string& bytes) {
  std::ifstream file(path, std::ios::binary);
  bytes.assign(std::istreambuf_iterator<char>(file), {});
  return bool(file);
}
Table& Parser::table() {
  static Table t = Table()
                       .set(SLOT_Parser_parse, +[](Parser* p, const void* data, size_t size, const char*) {
                         record("Parser.parse");
                         return p->parse(std::string(static_cast<const char*>(data), size));
                       })
                       .set(SLOT_Parser_parseFromFile, +[](Parser* p, const char* path, int32_t) {
                         record("Parser.parseFromFile");
                         std::string bytes;
                         if (fileBytes(path, bytes)) return p->parse(bytes);
                         p->errors.push_back(std::make_unique<ParserError>(4, "Input file cannot be found: " + std::string(path)));
                         return false;
                       })
                       .set(SLOT_Parser_getNbErrors, +[](Parser* p) { return int32_t(p->errors.size()); })
                       .set(SLOT_Parser_getError, +[](Parser* p, int32_t i) { return p->errors[size_t(i)].get(); })
                       .set(SLOT_Parser_delete, +[](Parser* p) {
                         record("delete Parser");
                         delete p;
                       })
                       .set(SLOT_Parser_supportsModelV2, +[](Parser* p, const void* data, size_t size, const char*) {
                         record("Parser.supportsModelV2");
                         Model model;
                         const bool good = p->read(std::string(static_cast<const char*>(data), size), model);
                         p->subgraphs.clear();
                         for (size_t i = 0; i < model.nodes.size(); i++) {
                           const bool takes = known(model.nodes[i].op);
                           if (p->subgraphs.empty() || p->subgraphs.back().supported != takes) p->subgraphs.push_back({takes, {}});
                           p->subgraphs.back().nodes.push_back(int64_t(i));
                         }
                         return good;
                       })
                       .set(SLOT_Parser_getNbSubgraphs, +[](Parser* p) { return int64_t(p->subgraphs.size()); })
                       .set(SLOT_Parser_isSubgraphSupported, +[](Parser* p, int64_t i) { return p->subgraphs[size_t(i)].supported; })
                       .set(SLOT_Parser_getSubgraphNodes, +[](Parser* p, int64_t i, int64_t* count) {
                         *count = int64_t(p->subgraphs[size_t(i)].nodes.size());
                         return p->subgraphs[size_t(i)].nodes.data();
                       });
  return t;
}
#include "fake-tensorrt-build.h"
#include "fake-tensorrt-run.h"

}  // namespace

API int32_t getInferLibVersion() {
  const char* other = getenv("FAKE_TENSORRT_VERSION");
  return other == nullptr ? VERSION : atoi(other);
}
API int getNvOnnxParserVersion() { return 200; }
API void* createInferBuilder_INTERNAL(void* given, int32_t) {
  void* none = nullptr;
  logger.compare_exchange_strong(none, given);
  const char* resource = getenv("FAKE_TENSORRT_RESOURCE");
  if (resource != nullptr && dlopen(resource, RTLD_NOW | RTLD_LOCAL) == nullptr) {
    log(kError, (std::string("Unable to load library: ") + resource + ": " + dlerror()).c_str());
    return nullptr;
  }
  auto* b = make<Builder>("createInferBuilder");
  if (b == nullptr) log(kError, "Unable to load library libfake_builder_resource.so");
  return b;
}
API void* createInferRuntime_INTERNAL(void* given, int32_t) {
  void* none = nullptr;
  logger.compare_exchange_strong(none, given);
  return make<Runtime>("createInferRuntime");
}
API void* createNvOnnxParser_INTERNAL(void* network, void*, int) {
  auto* p = make<Parser>("createNvOnnxParser");
  if (p != nullptr) p->network = static_cast<NetworkDefinition*>(network);
  return p;
}
API void* createInferRefitter_INTERNAL(void* engine, void*, int32_t) {
  auto* r = make<Refitter>("createInferRefitter");
  if (r != nullptr) r->engine = static_cast<CudaEngine*>(engine);
  return r;
}
API void* createNvOnnxParserRefitter_INTERNAL(void* refitter, void*, int) {
  auto* p = make<ParserRefitter>("createNvOnnxParserRefitter");
  if (p != nullptr) p->refitter = static_cast<Refitter*>(refitter);
  return p;
}
// What NVIDIA's Python bindings link against besides.
API void* getPluginRegistry() { return nullptr; }
API void* getBuilderPluginRegistry(int32_t) { return nullptr; }
API bool initLibNvInferPlugins(void*, const char*) { return true; }
