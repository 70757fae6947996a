#include "bridge.h"

#include <algorithm>

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

bool ErrorRecorder::reportError(int32_t code, const char* text) noexcept {
  count_++;
  code_ = code;
  (here != nullptr ? *here : sink_).error(code, text);
  return true;
}

}  // namespace tensorrt
