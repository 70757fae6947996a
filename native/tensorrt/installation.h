// A TensorRT library and its ONNX parser, opened for the life of the process, and the family of versions it is called as.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "../src/cuda.h"
#include "../src/library.h"
#include "bridge.h"
#include "objects.h"

namespace tensorrt {

class Installation {
 public:
  // Both throw a JavaScript error whose `call` is "dlopen" or "dlsym".
  Installation(Napi::Env env, const std::string& library, const std::string& parser);
  void addParser(Napi::Env env, const std::string& parser);

  // False for a name that no family has.
  bool bind(const std::string& family);
  bool bound() const { return family_ != nullptr; }
  const Abi& abi() const { return abi_; }
  const Family& family() const { return *family_; }
  int32_t version() const { return version_; }
  int32_t parserVersion() const { return parserVersion_; }
  const std::string& path() const { return core_.path(); }
  const std::string& parserPath() const { return parser_.path(); }
  bool hasParser() const { return parser_.loaded(); }
  Log& log() { return log_; }

  // The builder that waits for work on that GPU, or a new one: making one reads TensorRT's kernels, seconds for a gigabyte. One call at a time has it.
  Builder takeBuilder(cuda::Context context);
  // For the next call; what TensorRT was told of this one is forgotten first.
  void giveBuilder(cuda::Context context, Builder builder);
  // Ends those that wait, and what they hold of memory.
  void endBuilders();
  Runtime createRuntime() { return {abi_, createRuntime_(logger_->address(), version_)}; }
  Refitter createRefitter(const CudaEngine& engine) { return {abi_, createRefitter_(engine.get(), logger_->address(), version_)}; }
  Parser createParser(const Object& network) { return {abi_, createParser_(network.get(), logger_->address(), parserVersion_)}; }
  ParserRefitter createParserRefitter(const Refitter& refitter) { return {abi_, createParserRefitter_ == nullptr ? nullptr : createParserRefitter_(refitter.get(), logger_->address(), parserVersion_)}; }

 private:
  Library core_, parser_;
  int32_t version_ = 0, parserVersion_ = 0;
  const Family* family_ = nullptr;
  Abi abi_;
  Log log_;
  std::mutex idle_;
  std::vector<std::pair<cuda::Context, Builder>> builders_;
  // TensorRT keeps the first logger it is given for everything after.
  std::unique_ptr<Face> logger_;
  void* (*createBuilder_)(void*, int32_t) = nullptr;
  void* (*createRuntime_)(void*, int32_t) = nullptr;
  void* (*createRefitter_)(void*, void*, int32_t) = nullptr;
  void* (*createParser_)(void*, void*, int) = nullptr;
  void* (*createParserRefitter_)(void*, void*, int) = nullptr;
};

// The one that `open` gave a number, bound to a family; throws otherwise.
Installation& installation(Napi::Env env, const Napi::Value& id);

}  // namespace tensorrt
