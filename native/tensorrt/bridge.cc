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
  // TensorRT 10.6 asks for 512; the driver promises 256. A page is more than anything asks for.
  constexpr uint64_t kMostAlignment = 1 << 21;
  const auto refuse = [&](const std::string& why) -> void* {
    if (here != nullptr) here->error(kFailedAllocation, ("an output of " + std::to_string(bytes) + " bytes: " + why).c_str());
    return nullptr;
  };
  const uint64_t step = std::max<uint64_t>(alignment, 1);
  if ((step & (step - 1)) != 0 || step > kMostAlignment || bytes > UINT64_MAX - 2 * kMostAlignment) return refuse("alignment " + std::to_string(alignment) + " is refused");
  const auto aligned = [&] { return (memory_ + step - 1) & ~(step - 1); };
  if (memory_ == 0 || aligned() + bytes > memory_ + bytes_) {
    if (memory_ != 0) driver().MemFree(memory_);
    memory_ = bytes_ = address_ = 0;
    cuda::DevicePtr made = 0;
    const uint64_t wanted = std::max<uint64_t>(bytes, 256) + (step > 256 ? step : 0);
    const cuda::Result status = driver().MemAlloc(&made, wanted);
    if (status != 0) return refuse(driver().describe(status));
    memory_ = made;
    bytes_ = wanted;
  }
  address_ = aligned();
  return reinterpret_cast<void*>(static_cast<uintptr_t>(address_));
}
OutputRoom::~OutputRoom() {
  if (memory_ != 0) driver().MemFree(memory_);
}

bool ErrorRecorder::reportError(int32_t code, const char* text) noexcept {
  count_++;
  code_ = code;
  (here != nullptr ? *here : sink_).error(code, text);
  return true;
}

}  // namespace tensorrt
