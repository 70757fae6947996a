#include "threads.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <system_error>
#include <thread>

namespace {

struct Pool {
  std::mutex mutex;
  std::condition_variable more;
  std::deque<std::function<void()>> queue;
  size_t idle = 0;  // threads that wait and for which nothing is in the queue

  void live(std::function<void()> work) {
    for (;;) {
      work();
      work = nullptr;
      std::unique_lock<std::mutex> lock(mutex);
      idle++;
      more.wait(lock, [&] { return !queue.empty(); });
      work = std::move(queue.front());
      queue.pop_front();
    }
  }
};
// Never destroyed: its threads wait until the process is gone.
Pool& pool() {
  static Pool& instance = *new Pool;
  return instance;
}

std::atomic<size_t> helping{0};

}  // namespace

bool runOnThread(std::function<void()> work) {
  Pool& p = pool();
  {
    const std::lock_guard<std::mutex> lock(p.mutex);
    if (p.idle > 0) {
      p.idle--;
      p.queue.push_back(std::move(work));
      p.more.notify_one();
      return true;
    }
  }
  try {
    std::thread([&p, work = std::move(work)]() mutable { p.live(std::move(work)); }).detach();
    return true;
  } catch (const std::system_error&) {
    return false;
  }
}

void Apart::wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  idle_.wait(lock, [&] { return running_ == 0; });
}
void Apart::over() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (--running_ == 0) idle_.notify_all();
}

bool Apart::open(Napi::Env env) {
  if (done_ != nullptr) return true;
  const auto name = Napi::String::New(env, "partita run");
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, &Apart::finish, &done_) != napi_ok) {
    done_ = nullptr;
    return false;
  }
  napi_unref_threadsafe_function(env, done_);
  // Runs before the function's own: no thread uses it, or any handle, when these go.
  napi_add_env_cleanup_hook(env, [](void* it) { static_cast<Apart*>(it)->wait(); }, this);
  return true;
}

// On JavaScript's thread; without an environment when that has ended, and with it everything that the work could be told to.
void Apart::finish(napi_env env, napi_value, void* context, void* data) {
  if (env == nullptr) return;
  auto& apart = *static_cast<Apart*>(context);
  if (--apart.unsettled_ == 0) napi_unref_threadsafe_function(env, apart.done_);
  static_cast<Napi::AsyncWorker*>(data)->OnWorkComplete(env, napi_ok);
}

bool Apart::run(Napi::Env env, Napi::AsyncWorker& work) {
  if (!open(env)) return false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    running_++;
  }
  const bool started = runOnThread([this, env, it = &work] {
    it->OnExecute(env);
    napi_call_threadsafe_function(done_, it, napi_tsfn_nonblocking);
    over();
  });
  if (!started) over();
  else if (unsettled_++ == 0) napi_ref_threadsafe_function(env, done_);
  return started;
}

Helpers::Helpers(size_t wanted) : count_(0) {
  // Half of the processors: the others wait for GPUs, and run JavaScript.
  const size_t most = std::max(1u, std::thread::hardware_concurrency() / 2);
  while (count_ < wanted) {
    size_t now = helping.load();
    if (now >= most) break;
    if (helping.compare_exchange_weak(now, now + 1)) count_++;
  }
}
Helpers::~Helpers() { helping -= count_; }

bool Together::add(std::function<void()> work) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    running_++;
  }
  const auto over = [this] {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--running_ == 0) over_.notify_all();
  };
  if (runOnThread([work = std::move(work), over] {
        work();
        over();
      }))
    return true;
  over();
  return false;
}
Together::~Together() {
  std::unique_lock<std::mutex> lock(mutex_);
  over_.wait(lock, [&] { return running_ == 0; });
}
