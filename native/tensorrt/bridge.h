// The objects that TensorRT calls: a logger for a library, a recorder of errors, a profiler and a progress monitor for a call. Their vtables
// are laid out as the family wants them: with or without the four slots of a versioned interface before their own.
#pragma once
#include <memory>

#include "objects.h"
#include "sink.h"

namespace tensorrt {

struct LayerTime {
  std::string name;
  float ms;
};

// What is behind a logger: messages from a thread that runs one of our calls go to that call, those from TensorRT's own threads to every call
// that is under way in the library.
class Log {
 public:
  void enter(const std::shared_ptr<Sink>& sink);
  void leave(const std::shared_ptr<Sink>& sink);
  void write(int severity, const char* text);

 private:
  std::mutex lock_;
  std::vector<std::shared_ptr<Sink>> open_;
};

// A call of the library, on this thread, for a scope.
class Listening {
 public:
  Listening(Log& log, std::shared_ptr<Sink> sink);
  ~Listening();
  Listening(const Listening&) = delete;
  Listening& operator=(const Listening&) = delete;

 private:
  Log& log_;
  std::shared_ptr<Sink> sink_;
  Sink* before_;
};

struct InterfaceInfo {
  const char* kind;
  int32_t major, minor;
};
// An interface of TensorRT's with a version: four slots before its own.
class Versioned {
 public:
  explicit Versioned(const char* kind) : kind_(kind) {}
  virtual int32_t getAPILanguage() const noexcept { return 0; }
  virtual InterfaceInfo getInterfaceInfo() const noexcept { return {kind_, 1, 0}; }
  virtual ~Versioned() = default;

 private:
  const char* kind_;
};
class Unversioned {
 public:
  explicit Unversioned(const char*) {}
};

template <class Base>
class Logger : public Base {
 public:
  explicit Logger(Log& log) : Base("ILogger"), log_(log) {}
  virtual void log(int32_t severity, const char* text) noexcept { log_.write(severity, text); }
  virtual ~Logger() = default;

 private:
  Log& log_;
};

template <class Base>
class Profiler : public Base {
 public:
  explicit Profiler(std::vector<LayerTime>& times) : Base("IProfiler"), times_(times) {}
  virtual void reportLayerTime(const char* name, float ms) noexcept { times_.push_back({name != nullptr ? name : "", ms}); }
  virtual ~Profiler() = default;

 private:
  std::vector<LayerTime>& times_;
};

class ProgressMonitor : public Versioned {
 public:
  explicit ProgressMonitor(Sink& sink) : Versioned("IProgressMonitor"), sink_(sink) {}
  virtual void phaseStart(const char* phase, const char* parent, int32_t steps) noexcept;
  // False asks TensorRT to end the build.
  virtual bool stepComplete(const char* phase, int32_t step) noexcept;
  virtual void phaseFinish(const char* phase) noexcept;

 private:
  Sink& sink_;
};

class ErrorRecorder : public Versioned {
 public:
  explicit ErrorRecorder(Sink& sink) : Versioned("IErrorRecorder"), sink_(sink) {}
  virtual int32_t getNbErrors() const noexcept { return count_; }
  virtual int32_t getErrorCode(int32_t) const noexcept { return code_; }
  virtual const char* getErrorDesc(int32_t) const noexcept { return ""; }
  virtual bool hasOverflowed() const noexcept { return false; }
  virtual void clear() noexcept { count_ = 0; }
  // Goes to the call that this thread runs, otherwise to the owner's sink.
  virtual bool reportError(int32_t code, const char* text) noexcept;
  virtual int32_t incRefCount() noexcept { return ++references_; }
  virtual int32_t decRefCount() noexcept { return --references_; }

 private:
  Sink& sink_;
  std::atomic<int32_t> count_{0}, code_{0}, references_{0};
};

// Memory of an output whose dims the data decides: TensorRT asks for it while an enqueue runs, and tells the dims. One run's at a time. The GPU's
// context must be current, also at its end.
class OutputRoom {
 public:
  OutputRoom() = default;
  OutputRoom(const OutputRoom&) = delete;
  OutputRoom& operator=(const OutputRoom&) = delete;
  ~OutputRoom();
  void* of(uint64_t bytes, uint64_t alignment) noexcept;
  void tell(const Dims& dims) { dims_ = dims; }
  void begin() { dims_.count = -1; }
  // Of the run that was; count -1 where TensorRT did not tell.
  const Dims& dims() const { return dims_; }
  uint64_t address() const { return address_; }

 private:
  Dims dims_;
  // The memory, and the aligned place in it that was given last.
  uint64_t memory_ = 0, bytes_ = 0, address_ = 0;
};

// TensorRT-RTX has dropped the first of TensorRT's three methods.
class BriefAllocator : public Versioned {
 public:
  explicit BriefAllocator(OutputRoom& room) : Versioned("IOutputAllocator"), room_(room) {}
  virtual void* reallocateOutputAsync(const char*, void*, uint64_t bytes, uint64_t alignment, void*) noexcept { return room_.of(bytes, alignment); }
  virtual void notifyShape(const char*, const Dims& dims) noexcept { room_.tell(dims); }

 private:
  OutputRoom& room_;
};
class OutputAllocator : public Versioned {
 public:
  explicit OutputAllocator(OutputRoom& room) : Versioned("IOutputAllocator"), room_(room) {}
  virtual void* reallocateOutput(const char*, void*, uint64_t bytes, uint64_t alignment) noexcept { return room_.of(bytes, alignment); }
  virtual void* reallocateOutputAsync(const char*, void*, uint64_t bytes, uint64_t alignment, void*) noexcept { return room_.of(bytes, alignment); }
  virtual void notifyShape(const char*, const Dims& dims) noexcept { room_.tell(dims); }

 private:
  OutputRoom& room_;
};

// A family of versions: its slots, and its loggers, profilers and allocators. One translation unit each.
struct Face {
  virtual ~Face() = default;
  virtual void* address() = 0;
};
struct Family {
  const char* name;
  const struct Slots& slots;
  std::unique_ptr<Face> (*logger)(Log&);
  std::unique_ptr<Face> (*profiler)(std::vector<LayerTime>&);
  std::unique_ptr<Face> (*allocator)(OutputRoom&);
};
extern const Family family10, family11, familyRtx13, familyRtx15;

template <class T, class Of>
std::unique_ptr<Face> face(Of& of) {
  struct Holder : Face {
    explicit Holder(Of& of) : object(of) {}
    void* address() override { return &object; }
    T object;
  };
  return std::make_unique<Holder>(of);
}

}  // namespace tensorrt
