// Threads for work that waits for a GPU. Node.js has four that everybody shares: runs on several streams and GPUs would wait for each other there.
#pragma once
#include <napi.h>

#include <condition_variable>
#include <functional>
#include <mutex>

// Runs a piece of work at once, on a thread that is idle or a new one. False when no thread can be started.
bool runOnThread(std::function<void()> work);

// Work of one environment on threads of its own; part of its state.
class Apart {
 public:
  // Starts the work on such a thread; it is completed on JavaScript's as by its own queue. False when that cannot be: nothing has happened then.
  bool run(Napi::Env env, Napi::AsyncWorker& work);

 private:
  bool open(Napi::Env env);
  void over();
  void wait();
  static void finish(napi_env env, napi_value, void* context, void* data);
  std::mutex mutex_;
  std::condition_variable idle_;
  size_t running_ = 0;
  // Of JavaScript's thread, but that others call it: it outlives them.
  napi_threadsafe_function done_ = nullptr;
  size_t unsettled_ = 0;
};

// Threads that help with one thing, as many as are wanted and processors are left for.
class Helpers {
 public:
  explicit Helpers(size_t wanted);
  ~Helpers();
  Helpers(const Helpers&) = delete;
  Helpers& operator=(const Helpers&) = delete;
  size_t count() const { return count_; }

 private:
  size_t count_;
};

// Pieces of work side by side; its end waits for all of them.
class Together {
 public:
  Together() = default;
  ~Together();
  Together(const Together&) = delete;
  Together& operator=(const Together&) = delete;
  // False when no thread takes it.
  bool add(std::function<void()> work);

 private:
  std::mutex mutex_;
  std::condition_variable over_;
  size_t running_ = 0;
};
