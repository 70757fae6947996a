#include "bridge.h"

#include <algorithm>

#include "../src/driver.h"

namespace tensorrt {

namespace {

thread_local Sink* here = nullptr;
std::string textOf(const char* text) { return text != nullptr ? text : ""; }

}  // namespace

void Log::enter(const std::shared_ptr<Sink>& sink) {
  const std::lock_guard<std::mutex> guard(lock_);
  open_.push_back(sink);
}

void Log::leave(const std::shared_ptr<Sink>& sink) {
  const std::lock_guard<std::mutex> guard(lock_);
  const auto at = std::find(open_.begin(), open_.end(), sink);
  if (at != open_.end()) open_.erase(at);
}

void Log::write(int severity, const char* text) {
  if (here != nullptr) return here->log(severity, text);
  const std::lock_guard<std::mutex> guard(lock_);
  for (const auto& sink : open_) sink->log(severity, text);
}

Listening::Listening(Log& log, std::shared_ptr<Sink> sink) : log_(log), sink_(std::move(sink)), before_(here) {
  log_.enter(sink_);
  here = sink_.get();
}
Listening::~Listening() {
  here = before_;
  log_.leave(sink_);
}

void ProgressMonitor::phaseStart(const char* phase, const char* parent, int32_t steps) noexcept { sink_.progress({Event::Start, steps, textOf(phase), textOf(parent)}); }
bool ProgressMonitor::stepComplete(const char* phase, int32_t step) noexcept {
  sink_.progress({Event::Step, step, textOf(phase), {}});
  return !sink_.cancelled();
}
void ProgressMonitor::phaseFinish(const char* phase) noexcept { sink_.progress({Event::Finish, 0, textOf(phase), {}}); }

// Freeing waits for the work that uses the memory.
void* OutputRoom::of(uint64_t bytes, uint64_t alignment) noexcept {
  // The driver's memory is aligned to 256 bytes; TensorRT asks for no more.
  if (alignment > 256) return nullptr;
  if (address_ != 0 && bytes <= bytes_) return reinterpret_cast<void*>(static_cast<uintptr_t>(address_));
  if (address_ != 0) driver().MemFree(address_);
  address_ = bytes_ = 0;
  cuda::DevicePtr made = 0;
  const uint64_t wanted = std::max<uint64_t>(bytes, 256);
  const cuda::Result status = driver().MemAlloc(&made, wanted);
  if (status != 0) {
    if (here != nullptr) here->error(kFailedAllocation, ("an output of " + std::to_string(wanted) + " bytes: " + driver().describe(status)).c_str());
    return nullptr;
  }
  address_ = made;
  bytes_ = wanted;
  return reinterpret_cast<void*>(static_cast<uintptr_t>(address_));
}
OutputRoom::~OutputRoom() {
  if (address_ != 0) driver().MemFree(address_);
}

bool ErrorRecorder::reportError(int32_t code, const char* text) noexcept {
  count_++;
  code_ = code;
  (here != nullptr ? *here : sink_).error(code, text);
  return true;
}

}  // namespace tensorrt
