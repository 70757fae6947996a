// Engines and their execution contexts, as the handle table holds them.
#pragma once
#include <map>

#include "tensorrt.h"

namespace tensorrt {

struct IoTensor {
  std::string name;
  bool input, host;
  int32_t type;
  Dims dims;
};

// A deserialized plan with its runtime. Ends with the GPU's context current.
struct EngineBox {
  EngineBox(Installation& library, cuda::Context context) : library(library), context(context), recorder(*sink) {}
  ~EngineBox();
  EngineBox(const EngineBox&) = delete;
  EngineBox& operator=(const EngineBox&) = delete;
  const IoTensor* find(const std::string& name) const;

  Installation& library;
  cuda::Context context;
  std::shared_ptr<Sink> sink = std::make_shared<Sink>();
  ErrorRecorder recorder;
  Runtime runtime;
  CudaEngine engine;
  std::vector<IoTensor> io;
  std::mutex lock;  // contexts are made one at a time
};

struct ContextBox {
  explicit ContextBox(std::shared_ptr<EngineBox> engine) : engine(std::move(engine)) {}
  ~ContextBox();
  ContextBox(const ContextBox&) = delete;
  ContextBox& operator=(const ContextBox&) = delete;

  // Room for an output that is asked for while it runs; TensorRT is told whom to ask. Null where it does not take that.
  OutputRoom* roomOf(const std::string& output);
  // From now on the output has memory of its own.
  void dropRoom(const std::string& output);

  std::shared_ptr<EngineBox> engine;
  ExecutionContext context;

 private:
  struct Asked {
    OutputRoom room;
    std::unique_ptr<Face> allocator;
  };
  std::map<std::string, Asked> rooms_;
};

inline std::shared_ptr<EngineBox> engineOf(const Handle& h) { return std::static_pointer_cast<EngineBox>(h.object); }
inline std::shared_ptr<ContextBox> contextBoxOf(const Handle& h) { return std::static_pointer_cast<ContextBox>(h.object); }

}  // namespace tensorrt
