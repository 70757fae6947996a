// What TensorRT tells while a call runs, from whatever thread: log, errors, progress. It is kept for the result, and passed on to JavaScript.
#pragma once
#include <napi.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace tensorrt {

// TensorRT's severities.
enum Severity : int { kInternal, kError, kWarning, kInfo, kVerbose };
extern const char* const severityNames[5];
// TensorRT's ErrorCode for memory that could not be had.
constexpr int kFailedAllocation = 5;

struct Event {
  enum Kind { Log, Start, Step, Finish } kind;
  int number;  // severity, count of steps, step
  std::string text, parent;
};

class Sink : public std::enable_shared_from_this<Sink> {
 public:
  explicit Sink(int level = kInfo) : level_(level) {}
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;

  // From any thread.
  void log(int severity, const char* text);
  void error(int code, const char* text);
  void progress(Event event) { push(std::move(event)); }
  void cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }

  // From JavaScript's thread: `listener` gets arrays of events as they come.
  void listen(Napi::Env env, Napi::Function listener);
  // Passes on what has not been yet, and ends listening.
  void finish(Napi::Env env);
  Napi::Array lines(Napi::Env env) const;
  bool outOfMemory() const { return memory_; }

 private:
  void push(Event event);
  void drain(Napi::Env env, const Napi::Function& listener);

  const int level_;
  std::atomic<bool> cancelled_{false}, memory_{false};
  mutable std::mutex lock_;
  std::vector<Event> kept_;      // log lines
  size_t dropped_ = 0;
  std::vector<Event> waiting_;  // for the listener
  bool listening_ = false;
  Napi::ThreadSafeFunction wake_;
  Napi::FunctionReference listener_;
};

}  // namespace tensorrt
